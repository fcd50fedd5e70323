"""Import of the paper's files: real sequences, made-up files of every kind, and each error.

pytest tests/dataset_builder/test_reference_import.py
"""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from dataset_builder import DatasetError, build_tables_from_reference, load_tables, write_dataset
from dataset_builder.__main__ import main


N_USERS, N_ITEMS = 6, 20
SEQUENCES = {user: [(4 * user + step) % N_ITEMS + 1 for step in range(5)] for user in range(1, N_USERS + 1)}


def explanation_row(user: int, item: int, **more) -> dict:
    row = {"user": user, "item": item, "explanation": f"strap of {user} {item}", "feature": "strap"}
    return row | {"user_preference": f"likes {user}", "item_attribution": f"has {item}"} | more


def write_reference(folder: Path, *, packed: bool = False) -> Path:
    """All files of a small release: every item once first, so that ids are dense."""
    folder.mkdir(exist_ok=True)
    pairs = [(user, item) for user, items in SEQUENCES.items() for item in items]
    negatives = {u: [i for i in range(1, N_ITEMS + 1) if i not in items][:7] for u, items in SEQUENCES.items()}
    rows = [explanation_row(*pair) for pair in pairs]
    files = {
        "sequential.txt": "".join(f"{u} {' '.join(map(str, items))}\n" for u, items in SEQUENCES.items()),
        "negative.txt": "".join(f"{u} {' '.join(map(str, items))}\n" for u, items in negatives.items()),
        "datamaps.json": json.dumps(
            {
                "id2user": {str(u): f"U{u}" for u in SEQUENCES},
                "id2item": {str(i): f"B{i}" for i in range(1, N_ITEMS + 1)},
            }
        ),
        "explanation_rationale.json": json.dumps({"train": rows[:24], "val": rows[24:27], "test": rows[27:]}),
        "item_text.txt": "B1 a wide strap\n",
    }
    for name, text in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder


def test_the_made_up_release_has_dense_ids():
    assert sorted({item for items in SEQUENCES.values() for item in items}) == list(range(1, N_ITEMS + 1))


@pytest.mark.parametrize("packed", [False, True])
def test_published_keeps_ids_splits_and_candidates(tmp_path, packed):
    folder = write_reference(tmp_path / "ref", packed=packed)
    tables = build_tables_from_reference(folder, domain="d", protocol="published", num_negatives=7)
    assert {r["user"]: r["items"] for r in tables.interactions.to_pylist()} == SEQUENCES
    assert tables.interactions["timestamps"].null_count == N_USERS
    assert [tables.rationales[s].num_rows for s in ("train", "validation", "test")] == [24, 3, 3]
    row = tables.rationales["train"].to_pylist()[0]
    assert row["user_preference"] == f"likes {row['user']}" and row["item_attributes"] == f"has {row['item']}"
    assert row["provenance"]["teacher"] == "Llama-2-7b-chat"
    for row in tables.candidates["test"].to_pylist():
        own = SEQUENCES[row["user"]]
        assert row["positive"] == own[-1]
        assert row["negatives"] == [i for i in range(1, N_ITEMS + 1) if i not in own][:7]
    catalog = {(r["kind"], r["id"]): r for r in tables.catalog.to_pylist()}
    assert catalog["user", 3]["raw_id"] == "U3" and catalog["item", 1]["text"] == "a wide strap"


def test_clean_draws_ids_and_keeps_held_out_texts_out(tmp_path):
    folder = write_reference(tmp_path / "ref")
    tables = build_tables_from_reference(folder, domain="d", num_negatives=7)
    names = {(r["kind"], r["id"]): r["raw_id"] for r in tables.catalog.to_pylist()}
    got = {names["user", r["user"]]: [names["item", i] for i in r["items"]] for r in tables.interactions.to_pylist()}
    assert got == {f"U{u}": [f"B{i}" for i in items] for u, items in SEQUENCES.items()}
    assert [names["item", i] for i in range(1, N_ITEMS + 1)] != [f"B{i}" for i in range(1, N_ITEMS + 1)]
    held_out = {(r["user"], i) for r in tables.interactions.to_pylist() for i in r["items"][-2:]}
    assert not held_out & {(r["user"], r["item"]) for r in tables.rationales["train"].to_pylist()}
    for table in tables.rationales.values():
        for row in table.to_pylist():  # each text still belongs to its own pair
            assert row["explanation"] == f"strap of {names['user', row['user']][1:]} {names['item', row['item']][1:]}"


def test_sequences_alone_are_enough_and_give_no_rationales(tmp_path):
    folder = tmp_path / "ref"
    folder.mkdir()
    (folder / "sequential.txt").write_text((write_reference(tmp_path / "all") / "sequential.txt").read_text())
    tables = build_tables_from_reference(folder, domain="d", num_negatives=5)
    assert all(table.num_rows == 0 for table in tables.rationales.values())
    assert sorted(r["raw_id"] for r in tables.catalog.to_pylist() if r["kind"] == "user") == list("123456")
    written = write_dataset(tables, tmp_path / "out")
    assert (
        not (written / "rationales").exists() and "config_name: rationales" not in (written / "README.md").read_text()
    )
    assert load_tables(written).rationales["train"].num_rows == 0


@pytest.mark.parametrize("protocol", ["clean", "published"])
def test_liberal_rows_and_counted_skips(tmp_path, protocol):
    folder = write_reference(tmp_path / "ref")
    item = SEQUENCES[1][0]
    rows = [
        {"user": "U1", "item": f"B{item}", "template": ["strap", "wide", "the strap is wide", 1]},  # raw ids, template
        explanation_row(2, SEQUENCES[2][0], user_preference=f"strap of 2 {SEQUENCES[2][0]}"),  # an answer not parsed
        explanation_row(3, SEQUENCES[3][1], explanation="  "),
        explanation_row(3, SEQUENCES[3][0]),
        explanation_row(3, SEQUENCES[3][0]),
        explanation_row(1, next(i for i in range(1, N_ITEMS + 1) if i not in SEQUENCES[1])),
        explanation_row(99, 1),
    ]
    (folder / "explanation_rationale.json").write_text(json.dumps(rows))
    tables = build_tables_from_reference(folder, domain="d", protocol=protocol, num_negatives=7)
    found = {r["explanation"]: r for t in tables.rationales.values() for r in t.to_pylist()}
    assert found["the strap is wide"]["feature"] == "strap" and found["the strap is wide"]["provenance"] is None
    copied = found[f"strap of 2 {SEQUENCES[2][0]}"]["user_preference"]
    assert copied is None if protocol == "clean" else copied == f"strap of 2 {SEQUENCES[2][0]}"
    expected = {
        "duplicate_explanation": 1,
        "explanation_of_unknown_user_or_item": 1,
        "explanation_without_interaction": 1,
        "without_text": 1,
    }
    if protocol == "clean":
        expected["rationale_half_is_the_explanation"] = 1
    assert tables.info["skipped"] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sequential.txt", "1 2 3 4\n2 x 3 4\n", "sequential.txt line 2: not all integers"),
        ("sequential.txt", "1 2 3 4\n2 0 3 4\n", "sequential.txt line 2: id 0"),
        ("sequential.txt", "1 2 3\n", "line 1: user 1 has 2 items, leave-one-out needs 3"),
        ("sequential.txt", "1 2 3 4\n1 5 6 7\n", "line 2: user 1 has a line already"),
        ("sequential.txt", "1 2 3 2\n", "line 1: user 1 has an item twice"),
        ("sequential.txt", "\n", "empty"),
        ("sequential.txt", "1 1 2 4\n", "no item 3, but `published`.*--protocol clean"),
        ("negative.txt", "1 1 2\n2 3\n", "negative.txt line 2: 1 negatives where the first line has 2"),
        ("negative.txt", f"1 {SEQUENCES[1][0]}\n", "line 1: user 1 bought item"),
        ("negative.txt", "9 7\n", "line 1: user 9 is not in sequential.txt"),
        ("negative.txt", "1 700\n", "line 1: item 700 is not in sequential.txt"),
        ("negative.txt", "1 1\n", "no line for user 2"),
        ("datamaps.json", "{}", "datamaps.json: needs"),
        ("datamaps.json", "{", "datamaps.json: not JSON"),
        ("datamaps.json", '{"id2user": {"1": "a"}, "id2item": {}}', "id2user has no 2"),
        ("explanation_rationale.json", '{"dev": []}', "split 'dev' is unknown"),
        ("explanation_rationale.json", "3", "neither a list of rows nor splits"),
        ("explanation_rationale.json", '{"train": [{"user": 1}]}', "train row 0: not an object with user and item"),
        ("explanation_rationale.json", json.dumps([{"user": 1, "item": SEQUENCES[1][0]}]), "row 0: no explanation"),
        ("item_text.txt", "", "no line with an item id"),
    ],
)
def test_malformed_files_are_errors_that_name_the_line(tmp_path, name, content, message):
    folder = write_reference(tmp_path / "ref")
    if name == "sequential.txt":
        for other in folder.iterdir():
            other.unlink()
    (folder / name).write_text(content)
    with pytest.raises(DatasetError, match=message) as caught:
        build_tables_from_reference(folder, domain="d", protocol="published", num_negatives=7)
    assert "\n" not in str(caught.value)


def test_missing_folder_or_sequences(tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        build_tables_from_reference(tmp_path / "none", domain="d")
    with pytest.raises(DatasetError, match="no sequential.txt"):
        build_tables_from_reference(tmp_path, domain="d")


def test_command_line_imports(tmp_path, capsys):
    folder = write_reference(tmp_path / "ref")
    command = ["import", "--reference", str(folder), "--domain", "d", "--output", str(tmp_path / "out")]
    assert main(command) == 2
    assert "--num_negatives 15" in capsys.readouterr().err
    assert main([*command, "--num_negatives", "7"]) == 0
    assert "6 users, 20 items, 30 interactions" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "users", "items", "interactions"),
    [("beauty", 22_363, 12_101, 198_502), ("sports", 35_598, 18_357, 296_337), ("toys", 19_412, 11_924, 167_597)],
)
def test_real_domains_give_exactly_the_counts_of_the_design(shared_dir, domain, users, items, interactions):
    tables = build_tables_from_reference(shared_dir / "data" / domain, domain=domain)
    counts = tables.info["counts"]
    assert (counts["users"], counts["items"], counts["interactions"]) == (users, items, interactions)
    assert tables.info["skipped"] == {}
    flat = tables.interactions["items"].combine_chunks().flatten().to_numpy()
    assert len(np.unique(flat)) == items and (flat.min(), flat.max()) == (1, items)
    lists = tables.interactions["items"].to_pylist()
    # "The last id plus one" finds hundreds of test items among ids by first appearance, and next to none here.
    assert sum(row[-1] == row[-2] + 1 for row in lists) < 20
    texts = tables.catalog["text"].to_pylist()[users:]
    assert sum(text is not None for text in texts) > 0.99 * items
    for row, own in zip(tables.candidates["test"].to_pylist()[:200], lists):
        assert row["positive"] == own[-1] and len(set(row["negatives"]) - set(own)) == 99
