"""Corrupted rationales: how many move, that nothing else does, and that the result is a dataset like any other."""

import pytest

from dataset_builder.tables import load_tables, write_dataset
from rdrec.errors import DatasetError
from studies.corrupt import corrupt


def halves(tables, split="train"):
    return [(row["user_preference"], row["item_attributes"]) for row in tables.rationales[split].to_pylist()]


def test_a_share_of_the_rationales_is_handed_round(sample_dir, tmp_path):
    tables = load_tables(sample_dir)
    before = halves(tables)
    have = sum(row["provenance"] is not None for row in tables.rationales["train"].to_pylist())
    moved = {}
    for share in (0, 0.25, 1):
        made = corrupt(tables, share)
        after = halves(made)
        moved[share] = {place for place, (old, new) in enumerate(zip(before, after)) if old != new}
        # Many of a small teacher's sentences are alike, so that a row may be handed what it had.
        assert 0.8 * share * have <= len(moved[share]) <= round(share * have)
        assert sorted(map(str, after)) == sorted(map(str, before))
        for name in ("user", "item", "explanation", "feature"):
            assert made.rationales["train"][name].equals(tables.rationales["train"][name])
        assert made.rationales["test"].equals(tables.rationales["test"])
        write_dataset(made, tmp_path / str(share))
        assert halves(load_tables(tmp_path / str(share))) == after  # its fingerprint is right
    assert len(moved[0.25] - moved[1]) < 0.1 * len(moved[0.25])
    assert corrupt(tables, 0).info["fingerprint"] == tables.info["fingerprint"]
    assert corrupt(tables, 0.5, seed=1).info["fingerprint"] != corrupt(tables, 0.5).info["fingerprint"]


def test_mistakes_are_named(sample_dir):
    tables = load_tables(sample_dir)
    with pytest.raises(DatasetError, match="--share 25: give a share between 0 and 1"):
        corrupt(tables, 25)
    tables.rationales["train"] = tables.rationales["train"].slice(0, 0)
    with pytest.raises(DatasetError, match="no training rationales"):
        corrupt(tables, 0.5)
