"""A build that extends an earlier one: ids stay, new ones follow, splits move on, and nothing known is lost.

pytest tests/dataset_builder/test_extending.py
"""

import numpy as np
import pyarrow as pa
import pytest

from dataset_builder import DatasetError, build_tables, load_tables, write_dataset
from dataset_builder.__main__ import main, summary
from dataset_builder.rationales import review_key
from dataset_builder.reviews import Review
from dataset_builder.splits import TRAIN, split_texts
from dataset_builder.tables import SCHEMAS, fingerprint

from .test_dataset_builder import ROWS, build, make_rows, write_jsonl
from .test_other_files import build_file, cases  # noqa: F401


DAY = 86_400


def row(user, item, day, text=None):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewText": f"The strap is great for {user} and {item}." if text is None else text,
        "unixReviewTime": 1_400_000_000 + DAY * day,
    }


def newer(n_new_users=6, n_new_items=3):
    """The rows of `ROWS` after another month, in another order: known users buy on, new ones and new items come in."""
    items = [f"B{number:03d}" for number in range(30)] + [f"NEW{number}" for number in range(n_new_items)]
    rng = np.random.default_rng(8)
    rows = [row(f"NEWUSER{user}", items[-1 - step], 40 + step) for user in range(n_new_users) for step in range(8)]
    rows += [row(f"U{user:03d}", f"NEW{user % n_new_items}", 30) for user in range(20)]
    rows = [*rows, *ROWS]
    return [rows[place] for place in rng.permutation(len(rows))]


@pytest.fixture
def old(tmp_path):
    return write_dataset(build(), tmp_path / "old")


def extended(rows, old, **options):
    return build_tables(lambda: iter(rows), extend=old, progress=False, **options)


def raw_ids(tables, kind):
    return [one["raw_id"] for one in tables.catalog.to_pylist() if one["kind"] == kind]


def sequences(tables):
    """Raw items of each raw user, oldest first."""
    users, items = raw_ids(tables, "user"), raw_ids(tables, "item")
    rows = tables.interactions.to_pylist()
    return {users[one["user"] - 1]: [items[item - 1] for item in one["items"]] for one in rows}


def texts(tables, *splits):
    users, items = raw_ids(tables, "user"), raw_ids(tables, "item")
    return {
        (users[one["user"] - 1], items[one["item"] - 1]): one
        for split in splits or tables.rationales
        for one in tables.rationales[split].to_pylist()
    }


def test_known_ids_stay_and_new_ones_follow(old):
    before, after = load_tables(old), extended(newer(), old)
    for kind, new in (("user", 6), ("item", 3)):
        kept = raw_ids(before, kind)
        assert raw_ids(after, kind)[: len(kept)] == kept
        assert len(raw_ids(after, kind)) == len(kept) + new
    for name in ("domain", "protocol", "seed", "min_core", "num_negatives"):
        assert after.info[name] == before.info[name]
    assert after.info["extends"] == {
        "fingerprint": before.info["fingerprint"],
        "users": 40,
        "items": 30,
        "interactions": 360,
    }
    told = f"extends {before.info['fingerprint'][:16]}: 40 users kept, 6 new; 30 items kept, 3 new; "
    assert told + f"360 interactions kept, {after.info['counts']['interactions'] - 360} new" in summary(after)


def test_ids_that_follow_are_drawn_by_the_seed_alone(old):
    after = extended(newer(), old)
    assert fingerprint(extended(newer(), old)) == after.info["fingerprint"]
    published = [build(protocol="published"), None]
    folder = write_dataset(published[0], old.parent / "published")
    published[1] = extended(newer(), folder)
    # By first appearance in the sequences, as everywhere under that protocol.
    in_order = dict.fromkeys(item for row in sequences(published[1]).values() for item in row)
    assert raw_ids(published[1], "item")[30:] == [item for item in in_order if item.startswith("NEW")]
    drawn = raw_ids(extended(newer(40), old), "user")[40:]
    assert sorted(drawn) != drawn and len(drawn) == 40


def test_splits_of_known_users_move_on(old):
    before, after = load_tables(old), extended(newer(), old)
    for user, items in sequences(before).items():
        bought = [f"NEW{int(user[1:]) % 3}"] if int(user[1:]) < 20 else []
        assert sequences(after)[user] == items + bought
    items = raw_ids(after, "item")
    held_out = {one["user"]: items[one["positive"] - 1] for one in after.candidates["test"].to_pylist()}
    assert held_out[raw_ids(after, "user").index("U001") + 1] == "NEW1"
    # What was held out has become training data, and the other way round nothing.
    trained, held = set(texts(before, "train")), set(texts(after, "validation", "test"))
    assert not trained & held and set(texts(before, "validation")) & set(texts(after, "train"))


def test_the_same_reviews_again_change_nothing(old):
    assert extended(ROWS, old).info["fingerprint"] == load_tables(old).info["fingerprint"]


def test_what_the_reviews_no_longer_hold_stays(old, tmp_path):
    """A user and an item that are gone, and a file of the new rows alone."""
    before = load_tables(old)
    new = [row("U001", "NEW0", 50), *(row("NEWUSER", f"B{item:03d}", 60 + item) for item in range(9))]
    for rows in (new, [one for one in [*ROWS, *new] if one["reviewerID"] != "U002" and one["asin"] != "B003"]):
        after = extended(rows, old, min_core=5)
        assert raw_ids(after, "user")[:40] == raw_ids(before, "user") and raw_ids(after, "user")[40:] == ["NEWUSER"]
        # One purchase does not make an item.
        assert raw_ids(after, "item") == raw_ids(before, "item")
        assert all(sequences(after)[user] == items for user, items in sequences(before).items())
        one = texts(before)["U002", sequences(before)["U002"][0]]
        assert texts(after)["U002", sequences(before)["U002"][0]] == one
        assert set(texts(after)) > set(texts(before))
        lost = 360 - sum((one["reviewerID"], one["asin"]) in texts(before) for one in rows)
        assert f"{lost} interactions that the reviews no longer hold stay as they were" == after.info["notes"]["kept"]


def test_rationales_stay_with_their_reviews(tmp_path):
    def rationale(one):
        key = review_key(Review(0, one["reviewerID"], one["asin"], 0, one["reviewText"], None, ""))
        said = f"For {one['reviewerID']} {one['asin']}."
        return {**key._asdict(), "review_row": None, "user_preference": said, "item_attributes": said}

    given = write_jsonl(tmp_path / "rationales.jsonl", [rationale(one) for one in ROWS])
    old = write_dataset(build(rationales=given), tmp_path / "old")
    after = extended([one for one in newer() if one["reviewerID"] != "U002"], old, rationales=given)
    for (user, item), one in texts(after).items():
        known = user[1:].isdigit() and not item.startswith("NEW")
        assert one["user_preference"] == (f"For {user} {item}." if known else None)
    assert "--rationales" in extended(newer(), old).info["notes"]["rationales"]


def test_the_catalog_s_texts_stay_unless_others_are_given(tmp_path):
    named = tmp_path / "texts"
    named.write_text("B001 red strap\nB002 blue strap\n")
    old = write_dataset(build(item_text=named), tmp_path / "old")
    named.write_text("B002 green strap\nNEW1 tuner\n")
    after = extended(newer(), old, item_text=named)
    found = {one["raw_id"]: one["text"] for one in after.catalog.to_pylist() if one["text"]}
    assert found == {"B001": "red strap", "B002": "green strap", "NEW1": "tuner"}


def test_a_number_keeps_its_id_however_the_new_file_writes_it(tmp_path):
    rows = make_rows()
    for one in rows:
        one["reviewerID"], one["asin"] = one["reviewerID"][1:].lstrip("0") or "0", one["asin"][1:] + ".0"
    old = write_dataset(build(rows), tmp_path / "old")
    again = [one | {"reviewerID": f"{one['reviewerID']}.0", "asin": one["asin"][:-2]} for one in rows]
    assert extended(again, old).info["fingerprint"] == load_tables(old).info["fingerprint"]


def test_a_setting_that_contradicts_the_extended_dataset_is_refused(old, tmp_path, capsys):
    reviews = write_jsonl(tmp_path / "r.jsonl", newer())
    command = ["build", "--reviews", str(reviews), "--extend", str(old), "--output", str(tmp_path / "new")]
    settings = (
        ("seed", "1", "0"),
        ("protocol", "published", "clean"),
        ("num_negatives", "9", "10"),
        ("min_core", "2", "5"),
    )
    for name, other, kept in settings:
        assert main([*command, f"--{name}", other]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: --{name} {other}: {old} was built with {kept}, which extending keeps; leave it out"
        )
        assert not (tmp_path / "new").exists()
    assert main([*command, "--seed", "0", "--min_core", "5"]) == 0
    assert "40 users kept, 6 new" in capsys.readouterr().out
    assert load_tables(tmp_path / "new").info["domain"] == "test"
    assert main([*command[:3], "--output", str(tmp_path / "nameless")]) == 2
    assert "--domain: missing" in capsys.readouterr().err


def test_repeats_and_the_lowest_rating_stay_as_chosen(tmp_path):
    again = [row("U001", sequence_item, 20 + place) for place, sequence_item in enumerate(("B001", "B002", "B001"))]
    rows = [one | {"overall": 5.0} for one in [*ROWS, *again]]
    first = build(rows, keep_repeats=True, min_rating=4.0)
    assert (first.info["keep_repeats"], first.info["min_rating"]) == (True, 4.0)
    old = write_dataset(first, tmp_path / "old")
    assert extended(rows, old).info["fingerprint"] == first.info["fingerprint"]
    bad = [row("U002", "B004", 70) | {"overall": 1.0}, row("U001", "B001", 80) | {"overall": 5.0}]
    # A window of the export: the repeats that it lacks stay too.
    after = extended([*bad, *rows[:50]], old)
    for user, items in sequences(first).items():
        assert sequences(after)[user] == items + (["B001"] if user == "U001" else [])
    with pytest.raises(DatasetError, match="--min_rating 3.0: .* was built with 4.0"):
        extended(rows, old, min_rating=3.0)
    with pytest.raises(DatasetError, match="--keep_repeats True: .* was built with False"):
        extended(rows, write_dataset(build(rows), tmp_path / "once"), keep_repeats=True)


def test_a_dataset_can_be_extended_in_its_place(old, tmp_path):
    reviews = write_jsonl(tmp_path / "r.jsonl", newer())
    for users in (46, 46):
        assert (
            main(["build", "--reviews", str(reviews), "--extend", str(old), "--output", str(old), "--overwrite"]) == 0
        )
        assert load_tables(old).info["counts"]["users"] == users


def test_a_dataset_without_times_cannot_be_extended(tmp_path):
    tables = build()
    untimed = tables.interactions.drop_columns("timestamps").to_pylist()
    tables.interactions = pa.Table.from_pylist(untimed, SCHEMAS["interactions"])
    tables.info["fingerprint"] = fingerprint(tables)
    old = write_dataset(tables, tmp_path / "old")
    with pytest.raises(DatasetError, match=f"--extend {old}: its purchases have no times.*; build it from reviews"):
        extended(ROWS, old)
    with pytest.raises(DatasetError, match="no such folder"):
        extended(ROWS, tmp_path / "none" / "such")


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_a_text_that_trained_is_not_drawn_to_be_held_out(protocol):
    parts = np.zeros(200, dtype=np.int8)
    trained = np.arange(200) < 150
    splits = split_texts(parts, protocol, 0, trained)
    assert (splits[:150] == TRAIN).all() and (splits[150:] != TRAIN).sum() == 40


def test_last_month_then_this_month(cases, tmp_path):  # noqa: F811
    before = build_file(cases / "last_month.jsonl")
    old = write_dataset(before, tmp_path / "old")
    after = build_tables(cases / "this_month.jsonl", extend=old, progress=False)
    assert after.catalog == before.catalog
    assert after.info["counts"]["interactions"] == 185
    for user, items in sequences(before).items():
        assert sequences(after)[user][: len(items)] == items
