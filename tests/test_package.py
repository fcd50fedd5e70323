"""The package: what it installs, and that its program runs the same commands from anywhere."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.conftest import ROOT


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_the_package_asks_for_what_the_tests_ran_with_or_newer():
    asked = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    assert dict(line.split(">=") for line in asked) == requirements()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    flags = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, str(ROOT)], check=True)
    return next(folder.glob("rdrec-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the package, and a function that runs the program from an empty folder elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def rdrec(*flags, **kwargs):
        command = [sys.executable, "-m", "rdrec", *flags]
        settings = {"env": {**os.environ, "PYTHONPATH": str(folder)}, "cwd": elsewhere, "text": True, **kwargs}
        return subprocess.run(command, capture_output=True, **settings)

    return folder, rdrec


@pytest.mark.slow
def test_a_wheel_takes_three_names_and_brings_the_files_beside_them_along(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    own = f"rdrec-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"rdrec", "modeling_rdrec", "dataset_builder", own}
    inside = {name.removeprefix("rdrec/installed/") for name in names if name.startswith("rdrec/installed/")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    beside = {name for name in tracked if re.fullmatch(r"[a-z_]+\.py|[a-z]+_card\.md|(recipes|metrics|space)/.+", name)}
    assert len(beside) > 20 and inside == beside


@pytest.mark.slow
def test_the_program_runs_the_commands_from_anywhere(installed, tmp_path):
    folder, rdrec = installed
    listed = rdrec("--help").stdout
    for script in sorted(ROOT.glob("*.py")):
        assert f"  {script.stem} " in listed
    assert "--num_train_epochs" in rdrec("train", "--help").stdout
    reviews = tmp_path / "shop.csv"
    rows = [f"u{u},i{(u + n) % 8},{1393545600 + 1000 * n}" for u in range(12) for n in range(6)]
    reviews.write_text("\n".join(["user,item,timestamp", *rows]), encoding="utf-8")
    flags = ["--reviews", str(reviews), "--domain", "shop", "--num_negatives", "2", "--output", str(tmp_path / "data")]
    built = rdrec("build", *flags)
    assert built.returncode == 0, built.stderr
    flags = ["--dataset", str(tmp_path / "data"), "--config", str(folder / "rdrec/installed/recipes/sample.yaml")]
    flags += ["--output_dir", str(tmp_path / "run"), "--max_train_steps", "2", "--item_text", "none"]
    trained = rdrec("train", *flags)
    assert trained.returncode == 0, trained.stderr
    asked = rdrec("recommend", *flags[:2], "--model", str(tmp_path / "run"), "--output", str(tmp_path / "all.parquet"))
    assert asked.returncode == 0 and (tmp_path / "all.parquet").is_file(), asked.stderr


@pytest.mark.slow
def test_mistakes_of_the_program_are_one_line(installed):
    _, rdrec = installed
    wrong = rdrec("trian")
    assert wrong.returncode == 2 and wrong.stderr == "error: trian: no such command; did you mean train?\n"
    missing = rdrec("eval", "--model", "nowhere", "--dataset", "sample")
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1
