"""Ids as people have them: numbers that are raw ids, in the containers of numpy, pandas and torch; what is none."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration


# Raw ids that are numbers, at other places in the catalog than they say.
ITEMS = [str(number) for number in range(40, 0, -1)]
USERS = ["7", "3", "1"]


@pytest.fixture
def tokenizer(mixed_tokenizer):
    mixed_tokenizer.set_catalog(user=USERS, item=ITEMS)
    return mixed_tokenizer


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(5)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "history": "decoder"}
    return RDRecForConditionalGeneration(RDRecConfig(vocab_size=len(tokenizer), **sizes)).eval()


FORMS = {
    "text": ["3", "12", "30"],
    "integers": [3, 12, 30],
    "tuple": (3, 12, 30),
    "floats that are integers": [3.0, 12.0, 30.0],
    "numpy": np.array([3, 12, 30]),
    "numpy float": np.array([3.0, 12.0, 30.0]),
    "numpy text": np.array(["3", "12", "30"]),
    "numpy values": [np.int64(3), np.float32(12), np.str_("30")],
    "pandas": pd.Series([3, 12, 30], index=[5, 6, 7]),
    "pandas text": pd.Series(["3", "12", "30"]),
    "pandas index": pd.Index([3, 12, 30]),
    "torch": torch.tensor([3, 12, 30]),
    "torch values": [torch.tensor(3), torch.tensor(12.0), torch.tensor([30])[0]],
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_raw_ids_in_every_form(model, tokenizer, form):
    given = FORMS[form]
    wanted = model.recommend(tokenizer, ["3", "12", "30"], user="7", k=5)
    assert model.recommend(tokenizer, given, user=7, k=5) == wanted
    assert model.recommend(tokenizer, [given, given], user=np.array([7, 7]), k=5)[1].items == wanted.items
    assert all(isinstance(item, str) for item in wanted.items) and not {"3", "12", "30"} & set(wanted.items)
    ranked = model.rank(tokenizer, given, history=given)
    assert sorted(ranked.items) == ["12", "3", "30"] and ranked == model.rank(tokenizer, [3, 12, 30], history=given)
    assert model.recommend(tokenizer, [], k=40, exclude=given).items == [
        item for item in model.recommend(tokenizer, [], k=40, num_beams=40).items if item not in ("3", "12", "30")
    ]
    sentences = model.explain(tokenizer, user=["7", "3", "1"], item=["3", "12", "30"], max_length=5, min_length=2)
    assert model.explain(tokenizer, user=[7, 3.0, np.int64(1)], item=given, max_length=5, min_length=2) == sentences


def test_a_table_of_histories_is_several_users(model, tokenizer):
    rows = [[3, 12], [30, 1]]
    wanted = model.recommend(tokenizer, rows, k=3)
    for given in (
        np.array(rows),
        torch.tensor(rows),
        [np.array(row) for row in rows],
        [pd.Series(row) for row in rows],
    ):
        assert model.recommend(tokenizer, given, k=3) == wanted


def test_internal_ids_are_the_catalogs_own_integers(model, tokenizer):
    raw = model.recommend(tokenizer, [3, 12], k=5)
    places = [ITEMS.index(number) + 1 for number in ("3", "12")]
    for given in (places, np.array(places), torch.tensor(places), [float(place) for place in places]):
        internal = model.recommend(tokenizer, given, k=5, internal_ids=True)
        assert [ITEMS[item - 1] for item in internal.items] == raw.items and internal.scores == raw.scores
    assert all(type(item) is int for item in internal.items)
    ranked = model.rank(tokenizer, places, internal_ids=True)
    assert [ITEMS[item - 1] for item in ranked.items] == model.rank(tokenizer, [3, 12]).items
    asked = {"min_length": 2, "max_length": 5}
    assert model.explain(tokenizer, 1, places[0], internal_ids=True, **asked) == model.explain(tokenizer, 7, 3, **asked)
    assert torch.equal(
        model.decoder_inputs(tokenizer, places, internal_ids=True), model.decoder_inputs(tokenizer, [3, 12])
    )
    with pytest.raises(ValueError, match="^unknown item '3': internal ids are integers; leave out internal_ids"):
        model.recommend(tokenizer, ["3"], internal_ids=True)
    with pytest.raises(ValueError, match=r"^unknown item 41: internal ids of this checkpoint's catalog are 1\.\.40$"):
        model.recommend(tokenizer, [41], internal_ids=True)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        np.nan,
        np.float32("nan"),
        pd.NA,
        pd.NaT,
        None,
        True,
        np.bool_(True),
        torch.tensor(True),
        1.5,
        "",
    ],
    ids=repr,
)
@pytest.mark.parametrize("internal", [False, True])
def test_what_is_no_id_is_one_clear_line(model, tokenizer, value, internal):
    for ask in (
        lambda: model.recommend(tokenizer, [value], internal_ids=internal),
        lambda: model.recommend(tokenizer, [], exclude=[value], internal_ids=internal),
        lambda: model.rank(tokenizer, [value], internal_ids=internal),
        lambda: tokenizer.to_id("item", value, internal),
    ):
        with pytest.raises(ValueError, match="^item .* is no id: give the id as the data has it") as refusal:
            ask()
        assert "\n" not in str(refusal.value)


def test_unknown_ids_are_named_with_the_mend(model, tokenizer):
    with pytest.raises(
        ValueError, match="^unknown item 41: it is not in this checkpoint's catalog .see catalog.json.$"
    ):
        model.recommend(tokenizer, [3, 41])
    # A number that would be an internal id: perhaps that was meant.
    tokenizer.set_catalog(user=["900"], item=["901", "902"])
    with pytest.raises(ValueError, match="^unknown item 2: .*internal_ids=True takes numbers as the catalog's own"):
        tokenizer.to_id("item", 2)
    with pytest.raises(ValueError, match="^unknown user 'x'"):
        model.explain(tokenizer, "x", 901)


def test_a_shop_whose_ids_are_numbers_is_asked_with_its_own(shared_dir, model, mixed_tokenizer):
    """The rows of `ids_numeric.csv` asked as they were read, by csv and by pandas."""
    path = shared_dir / "cases" / "ids_numeric.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = [(row["user_id"], row["asin"]) for row in csv.DictReader(file)]
    frame = pd.read_csv(path)
    users, items = (list(dict.fromkeys(column)) for column in zip(*rows))
    # The builder draws ids at random: place and number differ.
    mixed_tokenizer.set_catalog(user=users[::-1], item=items[::-1])
    user = users[0]
    bought = [item for who, item in rows if who == user]
    wanted = model.recommend(mixed_tokenizer, bought, user=user, k=3)
    read = frame[frame.user_id == int(user)].asin
    assert model.recommend(mixed_tokenizer, read, user=frame.user_id.iloc[0], k=3) == wanted
    assert (
        model.recommend(mixed_tokenizer, read.to_numpy(), k=3).items
        == model.recommend(mixed_tokenizer, read.tolist(), k=3).items
    )
    assert not set(wanted.items) & set(bought) and set(wanted.items) <= set(items)
