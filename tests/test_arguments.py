"""Flags and recipe files: what wins, and how mistakes are named."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from dataset_builder import __main__ as data_command_line
from rdrec.arguments import parse_arguments, run, write_yaml
from rdrec.errors import DatasetError, UserError, exit_code
from rdrec.training.recipe import Recipe


ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Settings:
    rate: float = field(default=1e-3, metadata={"help": "a rate"})
    steps: int | None = None
    shares: list[float] = field(default_factory=lambda: [1.0, 1.0])
    fast: bool = False
    model: str | None = None


def parse(*argv):
    return parse_arguments(Settings, "Test.", argv)


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("rate: 5e-4\nsteps: 7\nshares: [1, 2.5]\nfast: true\nmodel: {d_model: 8}\n")
    return str(path)


def test_defaults_file_and_flags_in_rising_order(recipe_file):
    assert parse() == Settings()
    assert parse("--config", recipe_file) == Settings(5e-4, 7, [1.0, 2.5], True, '{"d_model": 8}')
    flags = ["--steps", "9", "--shares", "3", "--fast", "false"]
    for argv in ([f"--config={recipe_file}", *flags], [*flags, "--config", recipe_file]):
        assert parse(*argv) == Settings(5e-4, 9, [3.0], False, '{"d_model": 8}')


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rte: 1", r"r.yaml: unknown key 'rte': did you mean 'rate'\?"),
        ("zzz: 1", "unknown key 'zzz': --help lists the keys"),
        ("rate: fast", "argument --rate: invalid float value: 'fast'"),
        ("steps: [1, 2]", "unrecognized arguments: 2"),
        ("model: no", 'YAML reads this as False, put it in quotes: "no"'),
        ("rate:", "rate: has no value"),
        ("- rate", "`key: value` a line"),
        ("rate: {", "not readable as YAML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, content, message):
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        parse("--config", str(path))


def test_mistakes_in_flags_are_named():
    with pytest.raises(ValueError, match="unrecognized arguments: --rat"):
        parse("--rat", "1")
    with pytest.raises(ValueError, match="nowhere.yaml: no such file"):
        parse("--config", "nowhere.yaml")


def test_run_prints_one_line_and_leaves_with_a_code(capsys):
    def fails():
        raise UserError("first\n  second")

    with pytest.raises(SystemExit) as left:
        run(fails)
    assert left.value.code == 2 and capsys.readouterr().err == "error: first second\n"
    with pytest.raises(SystemExit) as left:
        run(lambda: 0)
    assert left.value.code == 0


def test_a_script_keeps_the_traceback_of_its_own_faults(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom rdrec.arguments import run\nfrom rdrec.errors import UserError\n"
        "def main():\n    raise (UserError if sys.argv[1:] else ValueError)('shapes differ')\n"
        "run(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def left(*argv):
        command = [sys.executable, str(script), *argv]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stderr

    code, printed = left()
    assert code == 1 and printed.startswith("Traceback") and printed.endswith("ValueError: shapes differ\n")
    assert left("mend") == (2, "error: shapes differ\n")


def test_the_data_command_line_keeps_the_traceback_of_its_own_faults(monkeypatch, capsys):
    def info_that_fails_with(error):
        def fails(path):
            raise error

        monkeypatch.setattr(data_command_line, "load_tables", fails)
        return data_command_line.main(["info", "data"])

    with pytest.raises(ValueError, match="shapes differ"):
        info_that_fails_with(ValueError("shapes differ"))
    assert info_that_fails_with(DatasetError("data: damaged")) == 2
    assert capsys.readouterr().err == "error: data: damaged\n"


def test_only_errors_of_files_that_have_a_name_are_the_users(tmp_path, capsys):
    def code_of(error):
        def fails():
            raise error

        return exit_code(fails)

    assert code_of(FileNotFoundError(errno.ENOENT, "No such file or directory", "a.json")) == 2
    assert code_of(OSError(errno.ENOSPC, "No space left on device")) == 2
    assert code_of(KeyboardInterrupt()) == 130
    missing, full, _ = capsys.readouterr().err.splitlines()
    assert missing == "error: [Errno 2] No such file or directory: 'a.json'"
    assert full.startswith("error: [Errno 28] No space left on device: the disk is full; what was there before is")
    for fault in (FileNotFoundError("no name"), ConnectionResetError(), OSError(errno.EIO, "Input/output error", "a")):
        with pytest.raises(type(fault)):
            code_of(fault)


@pytest.mark.parametrize("lines", [1, 100_000], ids=["at the end", "in between"])
def test_nobody_reading_on_is_no_fault(lines):
    program = f"import sys; from rdrec.errors import exit_code; sys.exit(exit_code(lambda: print('line\\n' * {lines})))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 141


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_readable(path):
    recipe = parse_arguments(Recipe, "Test.", ["--config", str(path)])
    assert recipe.reference_padding == ("published" in path.stem)


@pytest.mark.parametrize("flag", [["--model_name_or_path", "runs/july"], ["--model-name-or-path=runs/july"]])
def test_a_checkpoint_to_start_from_takes_the_place_of_a_recipe_s_new_model(flag):
    recipe = parse_arguments(Recipe, "Test.", ["--config", str(ROOT / "recipes/sample.yaml"), *flag])
    assert recipe.model_name_or_path == "runs/july" and recipe.model_config is None and recipe.train_batch_size == 64
    with pytest.raises(UserError, match="both given"):
        parse_arguments(Recipe, "Test.", [*flag, "--model_config", "{}"])


def test_a_written_recipe_reads_back(tmp_path):
    recipe = Recipe(model_config='{"d_model": 8}', task_ratio=[1.0, 0.0, 0.0, 2.0], max_train_steps=3)
    write_yaml(recipe.as_dict(), tmp_path / "r.yaml")
    assert yaml.safe_load((tmp_path / "r.yaml").read_text())["max_train_steps"] == 3
    assert parse_arguments(Recipe, "Test.", ["--config", str(tmp_path / "r.yaml")]) == recipe
