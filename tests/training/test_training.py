"""Whole runs on the sample, a few steps each: the files they leave, exact resume, stopping, how mistakes are named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file

from dataset_builder.tables import load_tables, write_dataset
from dataset_builder.time_split import split_by_time
from rdrec.arguments import parse_arguments
from rdrec.checkpoints import run_folder
from rdrec.checkpoints.loading import load_pretrained
from rdrec.durable import write_json
from rdrec.errors import UserError
from rdrec.evaluation.runner import Evaluation
from rdrec.evaluation.settings import EvaluationSettings
from rdrec.training.loop import train
from rdrec.training.recipe import Recipe
from tests.conftest import ROOT, TINY_MODEL, launched_on


@pytest.fixture
def recipe(small_recipe):
    """A recipe of a few small steps with the paper's way; keyword arguments change it."""
    return lambda **changes: small_recipe(**{"history": "encoder", **changes})


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_leaves_a_checkpoint_and_its_record(recipe, tmp_path, sample_data):
    record = train(recipe(report_to="tensorboard"))
    run = tmp_path / "run"
    assert json.loads((run / "training_record.json").read_text()) == json.loads(json.dumps(record.as_dict()))
    assert record.steps == 6 and record.dataset["fingerprint"] == sample_data.info["fingerprint"]
    assert 0 < record.share_of_step_time_spent_on_data < 1 and record.tokens_per_second > 0
    assert {"torch", "transformers"} <= set(record.versions) and record.recipe["seed"] == 42
    assert list((run / "logs").rglob("events.out.tfevents.*"))
    again = parse_arguments(Recipe, "", ["--config", str(run / "recipe.yaml")])
    assert again == recipe(report_to="tensorboard")
    assert not [path.name for path in run.rglob(".*")] and not (run / run_folder.BEST).exists()
    model, tokenizer = load_pretrained(str(run))
    assert tokenizer.catalog == sample_data.raw_ids and model.config.scale_decoder_outputs is False


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bytes_however_it_is_computed(recipe, tmp_path):
    train(recipe())
    train(recipe(output_dir=str(tmp_path / "again"), dataloader_num_workers=1))
    assert weights(tmp_path / "again") == weights(tmp_path / "run")
    train(recipe(output_dir=str(tmp_path / "parts"), gradient_accumulation_steps=3, model_config=NO_DROPOUT))
    train(recipe(output_dir=str(tmp_path / "whole"), model_config=NO_DROPOUT))
    parts, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("parts", "whole"))
    assert max((parts[name] - whole[name]).abs().max() for name in whole) < 1e-4
    train(recipe(output_dir=str(tmp_path / "other"), seed=1))
    assert weights(tmp_path / "other") != weights(tmp_path / "run")


NO_DROPOUT = json.dumps({**json.loads(TINY_MODEL), "dropout_rate": 0.0})


@pytest.mark.slow
def test_resume_goes_on_exactly(recipe, tmp_path):
    """Stopped by a signal and resumed, a run ends with the weights of one that was never stopped (with dropout)."""
    train(recipe(lr_scheduler_type="linear", num_train_epochs=1, save_steps=2))
    run, cut = tmp_path / "run", tmp_path / "cut"
    program = [
        # One core, as in this process: sums over two threads are rounded otherwise.
        "import os, signal",
        "if hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
        "import rdrec.training.loop as loop",
        "from rdrec.training.recipe import Recipe",
        "step = loop.Run._step",
        "def counted(self, *rest):",
        "    step(self, *rest)",
        "    if self.progress.step == 3: os.kill(os.getpid(), signal.SIGTERM)",
        "loop.Run._step = counted",
        f"loop.train(Recipe(**{recipe(output_dir=str(cut), lr_scheduler_type='linear', save_steps=2).as_dict()!r}))",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=ROOT, check=True, capture_output=True)
    assert not (cut / "config.json").exists()
    record = train(recipe(output_dir=str(cut), lr_scheduler_type="linear", resume_from_checkpoint="last"))
    assert record.steps == 6
    assert weights(cut) == weights(run)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_checkpoint(recipe, tmp_path):
    run = tmp_path / "run"
    settings = recipe(save_steps=1, max_train_steps=100_000).as_dict()
    program = (
        "from rdrec.training.loop import train; from rdrec.training.recipe import Recipe; "
        f"train(Recipe(**{settings!r}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while not (run / run_folder.LAST / run_folder.STATE_FILE).is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (run / "config.json").exists()
    record = train(recipe(save_steps=1, resume_from_checkpoint="last", max_train_steps=40))
    assert record.steps >= 40 and (run / "config.json").is_file()
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_model(recipe, tmp_path):
    record = train(
        recipe(
            train_batch_size=400,
            task_ratio=[0, 1, 0, 0],
            num_train_epochs=50,
            max_train_steps=None,
            learning_rate=0.3,
            early_stopping_patience=2,
        )
    )
    assert record.stopped_early
    losses = [entry["loss"] for entry in record.validation]
    assert record.best_validation_loss == min(losses) and len(losses) == losses.index(min(losses)) + 3


def test_ways_to_cut_the_model_are_refused(recipe, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", DistributedType.FSDP)
    with pytest.raises(UserError, match="FSDP: cuts the model into parts, which train.py does not do: launch it with"):
        train(recipe())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_train_the_same_model(recipe, tmp_path, processes):
    """The draws do not depend on the number of processes, so neither does the model, up to rounding."""
    changes = {"model_config": NO_DROPOUT, "train_batch_size": 20}  # so that each of four has rows
    settings = recipe(**changes, output_dir=str(tmp_path / "several")).as_dict()
    write_json(tmp_path / "r.yaml", settings)  # JSON is YAML
    train(recipe(**changes))
    done = subprocess.run(
        [*launched_on(processes), "train.py", "--config", str(tmp_path / "r.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    records = [json.loads((tmp_path / name / "training_record.json").read_text()) for name in ("run", "several")]
    assert [record["processes"] for record in records] == [1, processes]
    for alone, shared in zip(*(record["validation"] for record in records)):
        assert alone["loss"] == pytest.approx(shared["loss"], rel=1e-5)
    one, several = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "several"))
    assert max((one[name] - several[name]).abs().max() for name in one) < 1e-4


def test_sequences_alone_train(recipe, tmp_path, sample_dir):
    from dataset_builder.tables import Tables, fingerprint, load_tables, write_dataset

    tables = load_tables(sample_dir)
    empty = {split: table.slice(0, 0) for split, table in tables.rationales.items()}
    bare = Tables(empty, tables.interactions, tables.candidates, tables.catalog, json.loads(json.dumps(tables.info)))
    bare.info["counts"]["rationales"] = bare.info["counts"]["with_rationale"] = dict.fromkeys(empty, 0)
    bare.info["fingerprint"] = fingerprint(bare)
    write_dataset(bare, tmp_path / "bare")
    record = train(recipe(dataset=str(tmp_path / "bare")))
    assert record.draws_per_step == {"explanation": 0, "sequential": 6, "rationale": 0, "topn": 6}
    assert set(record.validation[0]) == {"step", "epoch", "minutes", "loss", "sequential", "topn"}


def test_starting_from_a_checkpoint(recipe, tmp_path, tiny_checkpoint):
    record = train(
        recipe(model_name_or_path=str(tiny_checkpoint), model_config=None, history=None, reference_padding=True)
    )
    assert record.model["config"]["reference_padding"] is True
    assert load_pretrained(str(tmp_path / "run"))[0].config.reference_padding is True


@pytest.mark.slow
def test_a_folder_with_a_run_is_never_lost(recipe, tmp_path):
    train(recipe(max_train_steps=1))
    before = weights(tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run: --resume_from_checkpoint last goes on"):
        train(recipe(max_train_steps=1))
    assert weights(tmp_path / "run") == before
    train(recipe(max_train_steps=1, overwrite_output_dir=True, seed=1))
    assert weights(tmp_path / "run") != before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume_from_checkpoint": "last"}, "no checkpoint to resume from"),
        ({"resume_from_checkpoint": "lats"}, "lats: no such checkpoint; `last` is the newest"),
        ({"model_config": None, "model_name_or_path": "nowhere/at-all"}, "^nowhere/at-all: neither a folder here nor"),
        ({"model_config": '{"d_modle": 8}'}, "unknown key 'd_modle'"),
        ({"model_config": "d_model"}, "give a mapping"),
        ({"model_config": '{"num_tasks": 0}'}, "num_tasks=0 is too small"),
        ({"vocab_size": 50}, "vocab_size 50: too small"),
        ({"gradient_accumulation_steps": 4}, "too small to share"),
        ({"model_config": '{"vocab_size": 9}'}, "vocab_size belongs outside"),
        ({"dataset": "nowhere/at-all"}, "nowhere/at-all: no such folder"),
        ({"task_ratio": [1.0, 1.0]}, "four numbers"),
    ],
)
def test_settings_that_do_not_fit_are_named(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        train(recipe(**changes))


def test_a_recipe_starts_from_the_papers_t5_unless_told_otherwise():
    recipe = Recipe(dataset="data/toys/")
    assert recipe.model_name_or_path == "google-t5/t5-small" and recipe.output_dir == "runs/toys"
    with pytest.raises(ValueError, match="both given"):
        Recipe(model_name_or_path="x", model_config=TINY_MODEL)


@pytest.mark.parametrize("name", ["max_train_steps", "max_eval_samples", "max_history", "learning_rate", "save_steps"])
def test_numbers_must_be_positive(recipe, name):
    with pytest.raises(ValueError, match=f"{name} 0: give more than 0"):
        recipe(**{name: 0})


@pytest.mark.slow
def test_resuming_with_other_settings_or_data_is_refused(recipe, tmp_path):
    train(recipe(max_train_steps=2))
    for changes in ({"seed": 1}, {"model_config": NO_DROPOUT}):
        with pytest.raises(ValueError, match=f"made with {next(iter(changes))}"):
            train(recipe(resume_from_checkpoint="last", **changes))
    state = tmp_path / "run" / run_folder.LAST / run_folder.STATE_FILE
    with pytest.raises(ValueError, match="not of the run in .*elsewhere"):
        train(recipe(output_dir=str(tmp_path / "elsewhere"), resume_from_checkpoint=str(state.parent)))
    write_json(state, {**json.loads(state.read_text()), "fingerprint": "another"})
    with pytest.raises(ValueError, match="trained on another dataset"):
        train(recipe(resume_from_checkpoint="last"))


def test_checkpoints_of_another_kind_or_size_are_named(tiny_checkpoint, tmp_path):
    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    config = json.loads((broken / "config.json").read_text())
    write_json(broken / "config.json", {**config, "d_ff": 64})
    with pytest.raises(ValueError, match="weights are of another size"):
        load_pretrained(str(broken))
    with pytest.raises(ValueError, match="table has 512 rows, not 100"):
        load_pretrained(str(tiny_checkpoint), max_whole_words=100)
    write_json(broken / "config.json", config)
    tensors = load_file(broken / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "prompt_embeddings.weight"}, broken / "model.safetensors")
    with pytest.raises(ValueError, match="weights lack prompt_embeddings.weight"):
        load_pretrained(str(broken))
    (broken / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="weights are damaged"):
        load_pretrained(str(broken))
    write_json(broken / "config.json", {**config, "model_type": "bert"})
    with pytest.raises(ValueError, match="a checkpoint of kind 'bert'"):
        load_pretrained(str(broken))


@pytest.mark.slow
def test_in_a_split_by_time_those_are_measured_who_are_tested(small_recipe, sample_dir, tmp_path):
    split = split_by_time(load_tables(sample_dir))
    folder, run = write_dataset(split, tmp_path / "split"), tmp_path / "run"
    train(small_recipe(dataset=str(folder), history="decoder"))
    Evaluation(EvaluationSettings(model=str(run), dataset=str(folder), tasks=["sequential", "topn"])).run()
    results = json.loads((run / "eval_results.json").read_text())
    tested = split.candidates["test"].num_rows
    assert results["queries"] == {"sequential": tested, "topn": tested}
    assert {"transitions", "popularity", "random"} == set(results["reference_points"]["sequential"])
    # An item is as novel as the share of all users that have it in training is small, tested or not.
    bought = split.interactions["items"].to_pylist()
    parts = [items[: -2 if user < tested else None] for user, items in enumerate(bought)]
    trained = np.bincount(np.concatenate(parts).astype(int))
    answers = pq.read_table(run / "eval_test_sequential.parquet")["items"].to_pylist()
    shown = np.concatenate([items[:10] for items in answers])
    novelty = -np.log2(np.maximum(trained[shown], 1) / len(bought)).mean()
    assert results["beyond_accuracy"]["sequential"]["novelty@10"] == pytest.approx(novelty, rel=0.02)
