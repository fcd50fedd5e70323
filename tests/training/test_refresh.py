"""A warm start over a refreshed dataset: tables grow for what is new, what is known stays, other catalogs are refused.

pytest tests/training/test_refresh.py
"""

import json

import numpy as np
import pytest
import torch

from dataset_builder import build_tables, load_tables, write_dataset
from dataset_builder.tables import fingerprint
from rdrec.checkpoints.loading import load_pretrained
from rdrec.errors import UserError
from rdrec.tasks.data import TaskData
from rdrec.training.loop import train
from rdrec.training.start import make_model, parameter_groups
from tests.dataset_builder.test_dataset_builder import build
from tests.dataset_builder.test_extending import newer


@pytest.fixture(scope="module")
def months(tmp_path_factory):
    """Folders of a dataset and of one that extends it by 6 users and 3 items; of NEW2 no text is known."""
    folder = tmp_path_factory.mktemp("months")
    old = write_dataset(build(), folder / "old")
    rows = [one | {"reviewText": "ззз ззз."} if one["asin"] == "NEW2" else one for one in newer()]
    tables = build_tables(lambda: iter(rows), extend=old, progress=False)
    return old, write_dataset(tables, folder / "new")


@pytest.fixture
def recipe(small_recipe, months):
    changed = {"dataset": str(months[0]), "max_train_steps": 2, "prior_weight": 0.0, "item_text_min_count": 1}
    return lambda **changes: small_recipe(**{**changed, "ids_as_tokens": True, "num_warmup_steps": 0, **changes})


def warm(recipe, run, dataset, **changes):
    return recipe(model_name_or_path=str(run), model_config=None, dataset=str(dataset), **changes)


def data_of(folder):
    return TaskData(load_tables(folder))


def rows_of(tokenizer, first, last):
    return torch.from_numpy(tokenizer.catalog_trie().spell(np.arange(first, last + 1))[0])


def test_tables_grow_and_known_rows_stay(recipe, months, tmp_path, capsys):
    run = tmp_path / "run"
    train(recipe())
    saved, tokenizer = load_pretrained(str(run))
    assert tokenizer.item_pieces is not None and len(tokenizer.user_pieces) == 40
    data = data_of(months[1])
    capsys.readouterr()
    settings = warm(recipe, run, months[1], output_dir=str(tmp_path / "next"))
    model, grown = make_model(settings, data)
    rates = [[group["lr"] for group in parameter_groups(*of)] for of in ((model, settings), (saved, recipe()))]
    assert len(rates[0]) == 4 and rates[0] == rates[1]  # it goes on as it began
    note = f"{months[1]} extends the catalog of {run} by 6 users and 3 items; items without a text that the "
    told = capsys.readouterr().out
    assert told.startswith(note) and told.endswith("the known items: 1\n")
    assert grown.catalog == data.raw_ids and grown.catalog["user"][:40] == tokenizer.catalog["user"]
    assert len(grown) == len(tokenizer) + 9 == model.config.vocab_size and len(grown.user_pieces) == 46
    with model.eval().folded():
        table = model.shared.weight.detach()
        # All that was known computes as before, the pieces of words too.
        torch.testing.assert_close(table[: len(tokenizer)], saved.shared.weight.detach(), atol=1e-5, rtol=1e-5)
        known = rows_of(grown, 1, 30)
        assert torch.equal(known, rows_of(tokenizer, 1, 30))
        texts = data.item_texts(settings.item_text)
        for item in range(31, 34):
            (row,), pieces = rows_of(grown, item, item), grown.text_pieces([texts[item - 1]])[0]
            bare = grown.catalog["item"][item - 1] == "NEW2"
            assert bool(pieces) != bare
            wanted = table[known].mean(0) if bare else table[pieces].sum(0) / len(pieces) ** 0.5
            torch.testing.assert_close(table[row], wanted, atol=1e-5, rtol=1e-5)
        users = torch.tensor(grown.user_pieces)
        torch.testing.assert_close(table[users[40:]], table[users[:40]].mean(0).expand(6, -1), atol=1e-5, rtol=1e-5)
        history = data.raw_ids["item"][:3]
        before = saved.eval().rank(tokenizer, data.raw_ids["item"][3:30], history)
        assert model.rank(grown, data.raw_ids["item"][3:30], history).items == before.items
    # What an item without purchases has of its own is nothing yet: its text is its vector.
    has_text = [item for item in range(31, 34) if grown.catalog["item"][item - 1] != "NEW2"]
    own = model.shared.weight[[int(rows_of(grown, item, item)) for item in has_text]]
    torch.testing.assert_close(own, torch.zeros_like(own), atol=1e-5, rtol=0)


def test_a_refreshed_run_trains_saves_and_resumes(recipe, months, tmp_path):
    train(recipe())
    settings = {"output_dir": str(tmp_path / "next"), "eval_steps": 2}
    straight = train(warm(recipe, tmp_path / "run", months[1], max_train_steps=4, **settings))
    assert straight.steps == 4
    model, tokenizer = load_pretrained(str(tmp_path / "next"))
    assert tokenizer.catalog == data_of(months[1]).raw_ids
    answer = model.eval().recommend(tokenizer, ["NEW1"], k=33)
    assert len(answer.items) == 32 and {"NEW0", "NEW2"} <= set(answer.items)
    weights = (tmp_path / "next" / "model.safetensors").read_bytes()
    settings["output_dir"] = str(tmp_path / "halves")
    train(warm(recipe, tmp_path / "run", months[1], max_train_steps=2, **settings))
    train(warm(recipe, tmp_path / "run", months[1], max_train_steps=4, resume_from_checkpoint="last", **settings))
    assert (tmp_path / "halves" / "model.safetensors").read_bytes() == weights


def test_ids_of_several_pieces_need_no_rows(recipe, months, tmp_path, capsys):
    train(recipe(ids_as_tokens=False))
    saved, tokenizer = load_pretrained(str(tmp_path / "run"))
    model, grown = make_model(warm(recipe, tmp_path / "run", months[1]), data_of(months[1]))
    assert f"extends the catalog of {tmp_path / 'run'} by 6 users and 3 items\n" in capsys.readouterr().out
    assert torch.equal(model.shared.weight, saved.shared.weight) and len(grown) == len(tokenizer)
    assert grown.num_ids("item") == 33 and grown.catalog_trie().num_items == 33
    assert len(model.eval().recommend(grown, ["NEW1"], k=33).items) == 32


def test_a_model_of_the_paper_s_way_grows_too(recipe, months, tmp_path):
    """Its items have no texts: new rows are the mean of the known."""
    train(recipe(history="encoder"))
    saved, tokenizer = load_pretrained(str(tmp_path / "run"))
    model, grown = make_model(warm(recipe, tmp_path / "run", months[1]), data_of(months[1]))
    known, new = rows_of(tokenizer, 1, 30), rows_of(grown, 31, 33)
    table, before = model.shared.weight, saved.shared.weight
    assert torch.equal(table[: len(before)], before) and model.lm_head.weight is table
    torch.testing.assert_close(table[new], before[known].mean(0).expand(3, -1))


def test_other_catalogs_are_refused(recipe, months, tmp_path):
    old, new = months
    train(recipe())
    run = tmp_path / "run"
    redrawn = write_dataset(build(newer()), tmp_path / "redrawn")
    tables = load_tables(new)
    unrelated = tables.info | {"extends": None}
    del unrelated["extends"]
    tables.info = json.loads(json.dumps(unrelated))
    tables.info["fingerprint"] = fingerprint(tables)
    alike = write_dataset(tables, tmp_path / "alike")
    tables = build_tables(lambda: iter(newer()), extend=write_dataset(build(seed=3), tmp_path / "seed"), progress=False)
    of_another = write_dataset(tables, tmp_path / "of_another")
    for dataset in (redrawn, alike, of_another):
        with pytest.raises(
            UserError, match="trained on a catalog of 40 users and 30 items.*: give the dataset"
        ) as refused:
            make_model(warm(recipe, run, dataset), data_of(dataset))
        assert "\n" not in str(refused.value)
    # The way back is no extension either.
    train(warm(recipe, run, new, output_dir=str(tmp_path / "next")))
    with pytest.raises(UserError, match="trained on a catalog of 46 users and 33 items"):
        make_model(warm(recipe, tmp_path / "next", old), data_of(old))
    with pytest.raises(UserError, match="^lora_rank: .* by 6 users and 3 items, and adapters have no rows for them"):
        make_model(warm(recipe, run, new, lora_rank=2), data_of(new))
