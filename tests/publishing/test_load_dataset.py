"""`load_dataset` from the Hub with the pinned `datasets` and, where it is installed, with an older major version."""

import sys

import pytest

from dataset_builder.tables import load_tables
from tests.conftest import ROOT
from tests.fakes.releasing import ask_stranger, asked


OLDER = ROOT / ".older-datasets"
NOT_HERE = pytest.mark.skipif(
    not (OLDER / ".installed").exists(), reason="no older datasets here: run `make older-datasets`"
)
PYTHONS = [sys.executable, pytest.param(str(OLDER / "bin/python"), marks=NOT_HERE)]


@pytest.mark.slow
@pytest.mark.parametrize("python", PYTHONS, ids=["pinned", "older"])
def test_each_config_and_split_whole_and_streamed(hub, sample_dir, tmp_path, python):
    asked("--dataset", sample_dir, "--tag", "v1.0").run()
    found = ask_stranger("stranger_rows.py", "rdrec/sample-rationales", "v1.0", folder=tmp_path, python=python)
    built = {f"{config}/{split}": part.num_rows for config, split, part in load_tables(sample_dir).parts()}
    assert found["rows"] == {name: count for name, count in built.items() if count} and len(found["rows"]) == 7
    assert found["default"]["train"] == built["rationales/train"]
    newest = int(found["version"].split(".")[0]) == 5
    assert newest == (python == sys.executable), found["version"]
