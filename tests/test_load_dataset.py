"""`load_dataset` from the Hub with the pinned `datasets` and, where it is installed, with an older major version."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import push_to_hub
from arguments import parse_arguments
from dataset_builder.tables import load_tables
from publishing.release import Release


ROOT = Path(__file__).resolve().parents[1]
OLDER = ROOT / ".older-datasets"
NOT_HERE = pytest.mark.skipif(
    not (OLDER / ".installed").exists(), reason="no older datasets here: run `make older-datasets`"
)
PYTHONS = [sys.executable, pytest.param(str(OLDER / "bin/python"), marks=NOT_HERE)]


@pytest.mark.parametrize("python", PYTHONS, ids=["pinned", "older"])
def test_each_config_and_split_whole_and_streamed(hub, sample_dir, tmp_path, python):
    flags = ["--namespace", "rdrec", "--dataset", str(sample_dir), "--tag", "v1.0"]
    Release(parse_arguments(push_to_hub.Arguments, "", flags)).run()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["HF_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [python, "-I", str(ROOT / "tests/stranger_rows.py"), "rdrec/sample-rationales", "v1.0"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    built = {f"{config}/{split}": part.num_rows for config, split, part in load_tables(sample_dir).parts()}
    assert found["rows"] == {name: count for name, count in built.items() if count} and len(found["rows"]) == 7
    assert found["default"]["train"] == built["rationales/train"]
    newest = int(found["version"].split(".")[0]) == 5
    assert newest == (python == sys.executable), found["version"]
