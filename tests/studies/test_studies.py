"""python -m studies: a study of tiny trainings run, stopped, gone on with and reported; mistakes named in one line."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from rdrec.errors import UserError
from rdrec.evaluation.baselines import rank_sequential
from studies import runner
from studies.report import collect, gains, write_report
from studies.runner import RANKS, ROW, cost, run_studies
from studies.study import read_study
from tests.conftest import ROOT, TINY_MODEL


@pytest.fixture
def study(tmp_path, sample_dir):
    """Writes a study of one training and two baselines on the sample."""
    recipe = {
        "model_config": json.loads(TINY_MODEL),
        "vocab_size": 1000,
        "ids_as_tokens": True,
        "history": "decoder",
        "task_ratio": [0, 1, 0, 0],
        "max_train_steps": 2,
        "prior_weight": 0,
        "mixed_precision": "no",
        "report_to": "none",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def write(name="small", **changes):
        content = {
            "title": "A small study",
            "seeds": [1, 2],
            "against": "popularity",
            "metrics": ["sequential ndcg@10", "topn hr@1", "sequential shown coverage@10"],
            "datasets": {"sample": {"path": str(sample_dir), "recipe": str(tmp_path / "recipe.yaml"), "minutes": 30}},
            "settings": {
                "popularity": {"baseline": "popularity"},
                "transitions": {"baseline": "transitions"},
                "no texts": {"item_text": ["none"], "model_config": {"d_ff": 16}},
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return path

    return write


BASELINES = {"popularity": {"baseline": "popularity"}, "transitions": {"baseline": "transitions"}}


def test_two_builds_of_the_same_purchases_are_compared_user_by_user(study, tmp_path, sample_dir):
    """Under other ids every user is somebody else by number, but not by name."""
    from rdrec.sample.build import build_sample

    other = build_sample(str(tmp_path / "other"), seed=1)
    settings = {
        "as built": {"baseline": "transitions"},
        "other ids": {"baseline": "transitions", "dataset": str(other)},
    }
    read = read_study(study(settings=settings, against="as built", seeds=[1], metrics=["sequential hr@10"]))
    run_studies([read], tmp_path / "runs", tmp_path / "work")
    (gain,) = gains(read, collect(read, tmp_path / "runs"))
    cells = collect(read, tmp_path / "runs")["sample"].values()
    first, second = (cell.user_scores("sequential hr@10", [1]) for cell in cells)
    changed = np.mean(first != second)
    assert changed < 0.05  # ties alone; with users mixed up it would be 40%
    assert gain.users.high - gain.users.low < 0.04


def test_seeds_of_a_setting_stand_before_those_of_a_dataset_and_of_the_study(study, tmp_path, sample_dir):
    where = {"path": str(sample_dir), "recipe": str(tmp_path / "recipe.yaml"), "minutes": 1}
    settings = {"popularity": {"baseline": "popularity"}, "dear": {"baseline": "transitions", "seeds": [9]}}
    read = read_study(study(settings=settings, datasets={"sample": where, "large": where | {"seeds": [4]}}))
    found = [(run.dataset, run.setting, run.seed) for run in read.runs]
    assert found == [
        *(("sample", "popularity", seed) for seed in (1, 2)),
        ("sample", "dear", 9),
        ("large", "popularity", 4),
        ("large", "dear", 9),
    ]


@pytest.mark.slow
def test_a_study_from_file_to_report(study, tmp_path, monkeypatch, sample_data, capfd):
    monkeypatch.chdir(ROOT)
    read, runs = read_study(study()), tmp_path / "runs"
    assert "6 runs, 0 of them there" in cost([read], runs)[0] and "together about 1.0 hours" in cost([read], runs)[0]
    run_studies([read], runs, tmp_path / "work")
    assert "6 runs, 0 of them there" in capfd.readouterr().out  # said before anything was made
    assert "6 runs, 6 of them there" in cost([read], runs)[0]
    model = next(run for run in read.runs if run.kind == "model")
    folder = runs / model.id
    assert {path.name for path in folder.iterdir()} == {ROW, RANKS}
    assert not [path for path in (tmp_path / "work").iterdir() if path.is_dir()]  # no weights
    row = pq.read_table(folder / ROW).to_pylist()[0]
    assert json.loads(json.loads(row["settings"])["model_config"]) == json.loads(TINY_MODEL) | {"d_ff": 16}
    assert row["seed"] == 1 and row["fingerprint"] == sample_data.info["fingerprint"]
    ranks = pq.read_table(folder / RANKS).to_pylist()
    assert all(one.keys() == {"task", "rank"} for one in ranks)  # and no raw id, which may be a person's
    for task in ("sequential", "topn"):
        found = [one["rank"] for one in ranks if one["task"] == task]
        assert len(found) == 400
        assert row[f"{task} hr@10"] == pytest.approx(sum(rank is not None and rank <= 10 for rank in found) / 400)
    assert 0 < row["sequential shown coverage@10"] <= 1 and "topn item tail ndcg@10" in row

    monkeypatch.setattr(runner, "_call", lambda command: pytest.fail("made again"))
    monkeypatch.setattr(runner, "_make", lambda *rest: pytest.fail("made again"))
    run_studies([read], runs, tmp_path / "work")
    print(write_report(read, runs, tmp_path / "evidence"))
    text = (tmp_path / "evidence" / "small.md").read_text()
    table = pa.csv.read_csv(tmp_path / "evidence" / "small.csv").to_pylist()
    assert len(table) == 6 and {line["setting"] for line in table} == {"popularity", "transitions", "no texts"}
    mean = np.mean([line["sequential ndcg@10"] for line in table if line["setting"] == "transitions"])
    assert f"| transitions | {mean:.4f} ± " in text
    assert (tmp_path / "evidence" / "small.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "evidence" / "small.svg").read_text()
    before = {path.name: path.read_bytes() for path in (tmp_path / "evidence").iterdir()}
    write_report(read, runs, tmp_path / "evidence")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "evidence").iterdir()}


def test_every_difference_has_its_interval(study, tmp_path):
    read, runs = read_study(study(settings=BASELINES)), tmp_path / "runs"
    run_studies([read], runs, tmp_path / "work")
    write_report(read, runs, tmp_path)
    text = (tmp_path / "small.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| sample | transitions | sequential ndcg@10"))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    for cell in cells[3:5]:
        value, low, high = (float(number) for number in re.findall(r"[+-]\d\.\d+", cell))
        assert low <= value <= high
    value, low, high = (float(number) for number in re.findall(r"[+-]\d\.\d+", cells[3]))
    assert low > 0.4 and value == pytest.approx(0.591 - 0.029, abs=0.01)  # docs/data.md
    # One seed: an interval over users is left. A figure without ranks then has none, and no line.
    single = read_study(study("single", settings=BASELINES, seeds=[1], metrics=["topn hr@1", "minutes"]))
    write_report(single, runs, tmp_path)
    gains = (tmp_path / "single.md").read_text().split("## Gains")[1]
    assert "topn hr@1" in gains and "| minutes |" not in gains and "|  |  |  |" in gains


def test_numbers_as_settings_are_a_curve(study, tmp_path, monkeypatch):
    settings = {"0": {"baseline": "random"}, "50": {"baseline": "popularity"}, "100": {"baseline": "transitions"}}
    read = read_study(study("curve", settings=settings, against="0"))
    run_studies([read], tmp_path / "runs", tmp_path / "work")
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.errorbar", lambda self, x, y, **rest: drawn.append((x, y)))
    write_report(read, tmp_path / "runs", tmp_path)
    ((places, means),) = drawn
    assert places == [0.0, 50.0, 100.0] and means == sorted(means)


def test_whether_two_datasets_order_the_settings_alike_is_told(study, tmp_path, sample_dir):
    settings = {name: {"baseline": name} for name in ("random", "popularity", "transitions")}
    settings |= {name: {"baseline": "transitions"} for name in ("counting", "again counting")}
    where = {"path": str(sample_dir), "recipe": str(tmp_path / "recipe.yaml"), "minutes": 1}
    read = read_study(study(settings=settings, datasets={"sample": where, "again": where}))
    run_studies([read], tmp_path / "runs", tmp_path / "work")
    write_report(read, tmp_path / "runs", tmp_path)
    text = (tmp_path / "small.md").read_text().split("## The same order everywhere?")[1]
    assert "| sample | again | 5 | +1.00 | " in text and "| transitions | transitions |" in text
    few = read_study(study("few", settings=BASELINES, datasets={"sample": where, "again": where}))
    write_report(few, tmp_path / "runs", tmp_path)
    assert "The same order" not in (tmp_path / "few.md").read_text()


def test_baselines_are_those_of_evaluation_and_runs_are_shared(study, tmp_path, sample_data):
    read, runs = read_study(study(settings=BASELINES)), tmp_path / "runs"
    run_studies([read], runs, tmp_path / "work")
    run = next(run for run in read.runs if run.setting == "transitions" and run.seed == 2)
    expected = rank_sequential(sample_data.sequences, "test", "transitions", sample_data.num_items, seed=2)
    table = pq.read_table(runs / run.id / RANKS, filters=[("task", "=", "sequential")])
    in_order = np.argsort(sample_data.raw_ids["user"])  # of the raw ids
    found = table["rank"].to_numpy()
    kept = expected[in_order] <= runner.MOST
    assert found[kept].tolist() == expected[in_order][kept].tolist() and np.isnan(found[~kept]).all()
    assert 0 < kept.sum() < 400
    other = read_study(study("other", settings={"counting": {"baseline": "transitions"}}, against="counting"))
    assert "2 runs, 2 of them there" in cost([other], runs)[0]
    # Of another dataset in the same folder nothing is there.
    changed = pq.read_table(runs / run.id / ROW).to_pylist()[0] | {"fingerprint": "of another"}
    pq.write_table(pa.Table.from_pylist([changed]), runs / run.id / ROW)
    assert "2 runs, 1 of them there" in cost([other], runs)[0]


def test_what_another_process_makes_is_passed_by_and_what_died_is_made(study, tmp_path):
    read, runs = read_study(study(settings=BASELINES, seeds=[1])), tmp_path / "runs"
    first, second = read.runs
    lock = tmp_path / "work" / f".{first.id}.lock"
    code = f"import fcntl, sys; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
    lock.parent.mkdir()
    code += "print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    run_studies([read], runs, tmp_path / "work")
    assert not (runs / first.id / ROW).is_file() and (runs / second.id / ROW).is_file()
    holder.kill()
    holder.wait()
    run_studies([read], runs, tmp_path / "work")
    assert (runs / first.id / ROW).is_file()


def test_what_a_dataset_is_made_of_is_made_first_and_nothing_else(study, tmp_path, monkeypatch):
    read = read_study(
        study(
            settings={"popularity": {"baseline": "popularity", "dataset": "data/last"}},
            against="popularity",
            make={"data/first": "make first", "data/other": "make other", "data/last": "make last --of data/first"},
        )
    )
    called = []
    monkeypatch.setattr(runner, "_call", lambda command: called.append(command[1]))
    monkeypatch.setattr(runner, "_make", lambda *rest: pytest.exit("the datasets are there first"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.exit.Exception):
        run_studies([read], tmp_path / "runs", tmp_path / "work")
    assert called == ["first", "last"]


def test_a_stopped_training_goes_on_from_its_checkpoint(study, tmp_path, monkeypatch):
    read = read_study(study(seeds=[1]))
    run = next(run for run in read.runs if run.kind == "model")
    commands = []

    def stop(command):
        commands.append([str(word) for word in command])
        raise UserError("stopped")

    monkeypatch.setattr(runner, "_call", stop)
    for checkpoint in (False, True):
        folder = tmp_path / str(checkpoint)
        (folder / "checkpoint-last").mkdir(parents=True)
        if checkpoint:
            (folder / "checkpoint-last" / "training_state.json").write_text("{}")
        with pytest.raises(UserError, match="stopped"):
            runner._make(run, folder)
    assert "--overwrite_output_dir" in commands[0] and commands[1][-2:] == ["--resume_from_checkpoint", "last"]


def test_missing_datasets_are_made_first(study, tmp_path, sample_dir):
    folder = tmp_path / "made"
    copy = f"python -c \"import shutil; shutil.copytree('{sample_dir}', '{folder}')\""
    settings = {"popularity": {"baseline": "popularity", "dataset": str(folder).replace("made", "{dataset}")}}
    path = study(settings=settings, seeds=[1], make={str(folder): copy})
    path.write_text(path.read_text().replace("  sample:", "  made:"))
    read = read_study(path)
    assert read.runs[0].path == str(folder)
    run_studies([read], tmp_path / "runs", tmp_path / "work")
    assert (tmp_path / "runs" / read.runs[0].id / ROW).is_file()


def test_words_of_a_dataset_fill_the_flags(study):
    settings = {"a": {"max_train_steps": "{steps}", "item_text": ["none"]}}
    path = study(settings=settings, against="a", seeds=[7])
    path.write_text(path.read_text().replace("minutes: 30", "minutes: 30\n    steps: 12"))
    (run,) = read_study(path).runs
    assert run.settings["max_train_steps"] == 12 and run.settings["seed"] == 7 and run.minutes == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sedes": [1]}, "unknown key 'sedes'"),
        ({"tasks": ["next"]}, "tasks: 'next' is none"),
        ({"against": "titles"}, "against: no setting 'titles'"),
        (
            {"settings": {"a": {"item_txt": ["none"]}}, "against": "a"},
            "a: unknown key 'item_txt': did you mean 'item_text'",
        ),
        ({"settings": {"a": {"peer": "svd"}}, "against": "a"}, "peer 'svd': take one of"),
        ({"settings": {"a": {"history": "both"}}, "against": "a"}, "a: history 'both': take one of"),
    ],
)
def test_mistakes_of_a_study_are_named(study, changes, message):
    with pytest.raises(UserError, match=message) as error:
        read_study(study(**changes))
    assert "\n" not in str(error.value)


def test_every_study_of_the_repository_can_be_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    files = sorted((ROOT / "studies").glob("*.yaml"))
    assert files
    for path in files:
        read = read_study(path)
        assert len({run.id for run in read.runs}) == len(read.runs), f"{path.name}: two settings that are the same"
