"""python -m dataset_builder leaks: the paper's leak of ids on its real sequences, the other leaks planted by hand."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from dataset_builder.__main__ import main
from dataset_builder.leaks import format_leaks, leaks
from dataset_builder.paper_import import build_tables_from_reference
from dataset_builder.tables import load_tables


@pytest.mark.slow
@pytest.mark.parametrize("domain, hr, ndcg", [("beauty", 0.0289, 0.0272), ("toys", 0.0458, 0.0438)])
def test_the_papers_ids_leak_as_the_design_says_and_drawn_ones_do_not(shared_dir, domain, hr, ndcg):
    found = {
        protocol: leaks(build_tables_from_reference(shared_dir / "data" / domain, domain=domain, protocol=protocol))
        for protocol in ("published", "clean")
    }
    published, clean = found["published"], found["clean"]
    assert published["id_order"]["hr@5"] == pytest.approx(hr, abs=5e-5)
    assert published["id_order"]["ndcg@5"] == pytest.approx(ndcg, abs=5e-5)
    assert format_leaks(published).count("LEAK") == 4 and "LEAK" not in format_leaks(clean)
    assert clean["id_order"]["hr@5"] < 0.001 and abs(clean["id_correlation"]["history"]) < 0.02
    assert published["id_correlation"]["history"] > 0.1


@pytest.fixture(scope="module")
def sample(sample_dir):
    return load_tables(sample_dir)


def test_the_sample_leaks_nothing(sample):
    audit = leaks(sample)
    assert "LEAK" not in format_leaks(audit)
    assert audit["texts"]["test"]["in_training"] == 0 and audit["repeats"] == 0
    assert audit["texts"]["test"]["interactions"] == 400
    # Its made-up reviews have no order at equal times.
    assert 0.4 < audit["equal_times"]["ascending"] < 0.6


def with_interactions(tables, change):
    rows = tables.interactions.to_pylist()
    for row in rows:
        change(row)
    return dataclasses.replace(tables, interactions=pa.Table.from_pylist(rows, schema=tables.interactions.schema))


def test_planted_order_of_ids_is_found(sample):
    def follow(row):
        row["items"] = [*row["items"][:-1], row["items"][-2] % 240 + 1]

    audit = leaks(with_interactions(sample, follow))
    assert audit["id_order"]["hr@5"] > 0.98 and audit["id_correlation"]["last"] > 0.9
    assert audit["random_ids"]["hr@5"][1] < 0.1 and "LEAK" in format_leaks(audit)


def test_planted_texts_repeats_and_duplicates_are_found(sample):
    clean = leaks(sample)

    def again(row):
        row["items"] = [*row["items"][:-1], row["items"][0]]

    assert leaks(with_interactions(sample, again))["repeats"] == 1.0
    user, items = sample.interactions["user"][0].as_py(), sample.interactions["items"][0].as_py()
    row = {"user": user, "item": items[-1], "explanation": "  Never READ before ", "feature": "x"}
    row |= dict.fromkeys(("user_preference", "item_attributes", "provenance"))
    train, test = sample.rationales["train"], sample.rationales["test"]
    more = {
        "train": pa.concat_tables([train, pa.Table.from_pylist([row], schema=train.schema)]),
        "test": pa.concat_tables(
            [test, pa.Table.from_pylist([row | {"user": 2, "explanation": "never read before"}], schema=test.schema)]
        ),
    }
    leaky = leaks(dataclasses.replace(sample, rationales=sample.rationales | more))
    assert leaky["texts"]["test"]["in_training"] == 1 and leaky["texts"]["validation"]["in_training"] == 0
    held_out, same = clean["duplicates"]["test"]["explanation"]
    assert leaky["duplicates"]["test"]["explanation"] == [held_out + 1, same + 1]


def test_equal_times_tell_a_file_that_was_sorted_by_item(sample):
    kinds = sample.catalog["kind"].to_pylist()
    raw_ids = [raw for raw, kind in zip(sample.catalog["raw_id"].to_pylist(), kinds) if kind == "item"]

    def by_item(row):
        row["items"] = sorted(row["items"], key=lambda item: raw_ids[item - 1])
        row["timestamps"] = [0] * len(row["items"])

    audit = leaks(with_interactions(sample, by_item))
    times = audit["equal_times"]
    assert audit["raw_order"] == {"interactions": 1.0, "test": 1.0}
    assert 0.4 < leaks(sample)["raw_order"]["interactions"] < 0.6
    lengths = np.array([len(items) for items in sample.interactions["items"].to_pylist()])
    assert times["ascending"] == 1.0 and times["test"] == 1.0
    assert times["interactions"] == pytest.approx(1 - len(lengths) / lengths.sum())

    def unknown(row):
        row["timestamps"] = None

    audit = leaks(with_interactions(sample, unknown))
    assert audit["equal_times"] is None and "times are not known" in format_leaks(audit)


def test_the_command_prints_and_writes_the_figures(sample_dir, tmp_path, capsys):
    assert main(["leaks", str(sample_dir), "--output", str(tmp_path / "leaks.json")]) == 0
    assert "last id plus one" in capsys.readouterr().out
    written = json.loads((tmp_path / "leaks.json").read_text())
    assert written["id_order"] == leaks(load_tables(sample_dir))["id_order"] and written["fingerprint"]
    assert main(["leaks", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
