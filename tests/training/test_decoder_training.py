"""Whole runs of a model whose decoder reads histories, a few steps each."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dataset_builder.tables import Tables, fingerprint, load_tables, write_dataset
from modeling_rdrec.transitions import WINDOW
from rdrec.checkpoints import run_folder
from rdrec.checkpoints.loading import load_pretrained
from rdrec.durable import write_json
from rdrec.errors import UserError
from rdrec.evaluation.runner import Evaluation
from rdrec.evaluation.settings import EvaluationSettings
from rdrec.tasks.scores import hit_and_ndcg
from rdrec.training.loop import AS_GOOD, train
from rdrec.training.start import make_model
from tests.conftest import ROOT, TINY_MODEL, launched_on


NO_DROPOUT = json.dumps({**json.loads(TINY_MODEL), "dropout_rate": 0.0})


@pytest.fixture
def recipe(small_recipe):
    """A recipe of a few small steps with histories in the decoder; keyword arguments change it."""
    return lambda **changes: small_recipe(**{"ids_as_tokens": True, "eval_steps": 3, "learning_rate": 0.002, **changes})


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def counted_pairs(tokenizer):
    return {(a, b) for a, b, _ in tokenizer.transitions.edges.tolist()}


def pairs_of(sequences):
    return {
        (int(a), int(b))
        for row in sequences
        for place, a in enumerate(row)
        for b in row[place + 1 : place + 1 + WINDOW]
    }


def difference(one, other):
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_a_run_leaves_a_model_that_recommends_by_history_alone(recipe, tmp_path, sample_data):
    record = train(recipe(prior_weight=0.5))
    run = tmp_path / "run"
    assert record.metric_for_best_model == "ndcg@10" and record.fit_on == "train"
    assert record.draws_per_step == {"explanation": 4, "sequential": 4, "rationale": 4, "topn": 0}
    assert [entry["step"] for entry in record.validation] == [3, 6]
    assert set(record.validation[0]) >= {"hr@10", "ndcg@10", "loss", "explanation", "rationale"}
    figures = [entry["ndcg@10"] for entry in record.validation]
    assert record.best_metric >= AS_GOOD * max(figures) and record.best_metric in figures
    chosen, plain = (sum(record.explanation[name].values()) for name in ("with", "without"))
    assert chosen >= plain >= 0 < chosen  # what an untrained model writes is like nothing
    assert record.prior == {"weight": 0.5, "offset": 0.1}
    assert {"catalog.json", "catalog_transitions.npy", "catalog_pieces.npy", "catalog_evidence.npz"} <= {
        path.name for path in run.iterdir()
    }
    model, tokenizer = load_pretrained(str(run))
    config = model.config
    assert (config.history, config.ids_are_pieces, config.reads_users) == ("decoder", True, False)
    assert config.max_history == 50 and config.prior_weight == 0.5 and config.prior_offset == 0.1
    assert tokenizer.catalog == sample_data.raw_ids and tokenizer.transitions.num_items == 240
    assert f"{record.best_metric:.4f} at step" in record.summary()
    assert config.reads_evidence and config.evidence_weight == record.explanation["weight"]
    # Nothing that is held out is evidence.
    assert tokenizer.evidence.rows["review"].max() == len(sample_data.texts["train"]) - 1
    bought = [sample_data.raw_ids["item"][item - 1] for item in sample_data.sequences[0][:-2]]
    answer = model.eval().recommend(tokenizer, bought, k=10)
    assert len(answer.items) == 10 and not set(answer.items) & set(bought)
    assert answer != model.recommend(tokenizer, bought, k=10, prior=False)
    # The prior counts what training saw, and nothing that is held out.
    assert counted_pairs(tokenizer) == pairs_of(items[:-2] for items in sample_data.sequences)


def test_validation_ranks_what_the_kept_model_ranks(recipe, tmp_path, sample_data):
    record = train(recipe(prior_weight=0.0, max_eval_samples=40))
    assert record.prior is None and not (tmp_path / "run" / "catalog_transitions.npy").exists()
    model, tokenizer = load_pretrained(str(tmp_path / "run"))
    from rdrec.training.validation import some_users

    ranks = []
    for user in some_users(sample_data, record.recipe["seed"], 40):
        *history, target = sample_data.sequences[user][:-1].tolist()
        items = model.eval().recommend(tokenizer, history, k=10, internal_ids=True).items
        ranks.append(items.index(target) + 1 if target in items else np.inf)
    assert hit_and_ndcg(np.array(ranks), [10])["ndcg@10"] == pytest.approx(record.best_metric)


def test_ids_of_several_pieces_train_too(recipe, tmp_path, sample_data):
    record = train(recipe(ids_as_tokens=False, max_train_steps=2, max_eval_samples=4))
    model, tokenizer = load_pretrained(str(tmp_path / "run"))
    assert model.config.history == "decoder" and not model.config.ids_are_pieces and record.prior is None
    assert tokenizer.item_pieces is None
    assert len(model.eval().recommend(tokenizer, sample_data.raw_ids["item"][:3], k=5).items) == 5


@pytest.mark.slow
def test_the_best_model_is_the_one_that_ranks_best(recipe, tmp_path):
    settings = {"learning_rate": 0.05, "early_stopping_patience": 2, "eval_steps": 2, "max_train_steps": 60}
    record = train(recipe(max_eval_samples=100, prior_weight=0.0, **settings))
    entries = record.validation
    best = entries[0]
    for place, entry in enumerate(entries):
        highest = max(one["ndcg@10"] for one in entries[: place + 1])
        as_good = entry["ndcg@10"] >= AS_GOOD * highest and entry["loss"] < best["loss"]
        best = entry if entry["ndcg@10"] > best["ndcg@10"] or as_good else best
    assert (record.best_metric, record.best_validation_loss) == (best["ndcg@10"], best["loss"])
    assert record.best_step == best["step"] and record.best_metric >= AS_GOOD * max(one["ndcg@10"] for one in entries)
    if record.stopped_early:
        assert len(entries) == entries.index(best) + 3
    by_loss = train(
        recipe(
            metric_for_best_model="loss",
            output_dir=str(tmp_path / "loss"),
            max_eval_samples=100,
            prior_weight=0.0,
            **settings,
        )
    )
    losses = [entry["loss"] for entry in by_loss.validation]
    assert by_loss.metric_for_best_model == "loss" and by_loss.best_validation_loss == min(losses)


def test_without_evidence_prompts_are_the_papers(recipe, tmp_path):
    record = train(recipe(evidence=["none"], prior_weight=0.0, max_train_steps=2, eval_steps=2))
    assert record.explanation is None and not (tmp_path / "run" / "catalog_evidence.npz").exists()
    model, tokenizer = load_pretrained(str(tmp_path / "run"))
    found = model.eval().explain(tokenizer, 1, 1, return_evidence=True, internal_ids=True)
    assert not model.config.reads_evidence and found.source == "beams" and found.evidence == ()


@pytest.mark.slow
def test_the_prior_is_chosen_on_validation(recipe, tmp_path):
    record = train(recipe(max_eval_samples=None, max_train_steps=2, eval_steps=2))
    assert record.prior["weight"] > 0, "an untrained model is worse than counts on the sample"
    assert record.prior["with"]["ndcg@10"] > record.prior["without"]["ndcg@10"]
    assert record.prior["without"]["ndcg@10"] == pytest.approx(record.best_metric)
    model, tokenizer = load_pretrained(str(tmp_path / "run"))
    assert model.config.prior_weight == record.prior["weight"] and model.config.prior_offset == record.prior["offset"]
    asked = {"model": str(tmp_path / "run"), "dataset": record.recipe["dataset"], "tasks": ["sequential", "topn"]}
    printed = Evaluation(EvaluationSettings(**asked, split="validation")).run()
    assert "  without prior" in printed
    results = json.loads((tmp_path / "run" / "eval_results_validation.json").read_text())
    assert results["fit_on"] == "train"
    assert results["results"]["sequential"]["ndcg@10"] == pytest.approx(record.prior["with"]["ndcg@10"], abs=0.01)
    without = results["variants"]["sequential"]["without prior"]
    assert without["ndcg@10"] == pytest.approx(record.best_metric, abs=0.01)
    assert set(results["variants"]["topn"]) == {"without prior"}
    assert set(json.loads(json.dumps(results["variants"]["sequential"]["without prior"]))) >= {"hr@5", "ndcg@10"}
    assert "after all" in Evaluation(EvaluationSettings(**asked, max_samples=8)).run()


# --- the same however it is computed ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_resume_goes_on_exactly(recipe, tmp_path):
    """Stopped by a signal and resumed, a run ends with the weights of one that was never stopped, dropout included."""
    changes = {"own_dropout": 0.3, "softmax_negatives": 64, "user_dropout": 0.5, "lr_scheduler_type": "linear"}
    train(recipe(**changes))
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
        f"loop.train(Recipe(**{recipe(output_dir=str(cut), **changes).as_dict()!r}))",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(program)], cwd=ROOT, check=True, capture_output=True)
    assert not (cut / "config.json").exists() and (cut / run_folder.LAST).is_dir()
    record = train(recipe(output_dir=str(cut), resume_from_checkpoint="last", **changes))
    assert record.steps == 6 and weights(cut) == weights(run)
    again = train(recipe(output_dir=str(tmp_path / "again"), **changes))
    assert weights(tmp_path / "again") == weights(run)
    without_minutes = [[{**row, "minutes": None} for row in one.validation] for one in (again, record)]
    assert without_minutes[0] == without_minutes[1]


@pytest.mark.slow
def test_parts_and_processes_train_the_same_model(recipe, tmp_path):
    settings = {"model_config": NO_DROPOUT, "softmax_negatives": 64, "prior_weight": 0.0}
    whole = train(recipe(**settings))
    train(recipe(output_dir=str(tmp_path / "parts"), gradient_accumulation_steps=3, **settings))
    write_json(tmp_path / "r.yaml", recipe(output_dir=str(tmp_path / "two"), **settings).as_dict())  # JSON is YAML
    done = subprocess.run(
        [*launched_on(2), "train.py", "--config", str(tmp_path / "r.yaml")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads((tmp_path / "two" / "training_record.json").read_text())
    assert two["processes"] == 2 and two["best_metric"] == pytest.approx(whole.best_metric, abs=1e-6)
    for other in ("parts", "two"):
        assert difference(tmp_path / "run", tmp_path / other) < 1e-4


# --- what it was fitted on -------------------------------------------------------------------------------------------


def test_a_model_fitted_on_all_is_for_production_and_not_evaluated(recipe, tmp_path, sample_data):
    record = train(recipe(fit_on="all", prior_weight=0.5, max_train_steps=2))
    assert record.best_metric is None and record.validation == [] and record.best_step == 2
    assert record.summary() == "fitted on all, the model of step 2 of 2"
    model, tokenizer = load_pretrained(str(tmp_path / "run"))
    assert model.config.fit_on == "all"
    assert counted_pairs(tokenizer) == pairs_of(sample_data.sequences)
    for split in ("test", "validation"):
        settings = EvaluationSettings(model=str(tmp_path / "run"), dataset=record.recipe["dataset"], split=split)
        with pytest.raises(UserError, match=f"fitted on all, {split} included: train with fit_on train to measure$"):
            Evaluation(settings)


def test_a_model_fitted_on_validation_is_evaluated_on_test_alone(recipe, tmp_path):
    record = train(recipe(fit_on="train+validation", prior_weight=0.0, max_train_steps=2))
    asked = {"model": str(tmp_path / "run"), "dataset": record.recipe["dataset"], "tasks": ["sequential"]}
    with pytest.raises(UserError, match="fitted on train.validation, validation included: evaluate on test$"):
        Evaluation(EvaluationSettings(**asked, split="validation"))
    assert "model" in Evaluation(EvaluationSettings(**asked, max_samples=5)).run()
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text())["fit_on"] == "train+validation"


# --- warm starts -----------------------------------------------------------------------------------------------------


def test_a_warm_start_over_another_catalog_is_refused_with_one_line(recipe, tiny_checkpoint, sample_dir, tmp_path):
    tables = load_tables(sample_dir)
    rows = tables.catalog.to_pylist()
    rows[5]["raw_id"] = "B0RENAMED1"
    catalog = type(tables.catalog).from_pylist(rows, schema=tables.catalog.schema)
    info = json.loads(json.dumps(tables.info))
    other = Tables(tables.rationales, tables.interactions, tables.candidates, catalog, info)
    other.info["fingerprint"] = fingerprint(other)
    write_dataset(other, tmp_path / "other")
    changes = {"model_name_or_path": str(tiny_checkpoint), "model_config": None, "dataset": str(tmp_path / "other")}
    with pytest.raises(UserError, match="trained on a catalog of 400 users and 240 items.*or others: give") as refusal:
        train(recipe(**changes))
    assert "\n" not in str(refusal.value)


def test_a_warm_start_goes_on_where_the_checkpoint_is(recipe, tmp_path, sample_data):
    """Composing takes the texts out of the saved rows; folded again, the model answers as the checkpoint did."""
    train(recipe(max_train_steps=2, prior_weight=0.0))
    saved, tokenizer = load_pretrained(str(tmp_path / "run"))
    warm = recipe(model_name_or_path=str(tmp_path / "run"), model_config=None)
    model, again = make_model(warm, sample_data)
    assert model.config.history == "decoder" and model.item_text is not None and again.catalog == tokenizer.catalog
    history = sample_data.raw_ids["item"][:3]
    wanted = saved.eval().recommend(tokenizer, history, k=10)
    with model.eval().folded():
        answer = model.recommend(again, history, k=10)
    assert answer.items == wanted.items and answer.scores == pytest.approx(wanted.scores, abs=1e-4)
    assert not torch.equal(model.shared.weight, saved.shared.weight)


def test_settings_of_the_other_way_are_refused(recipe):
    for changes, message in (
        ({"reference_padding": True}, "reference_padding is the paper's way: it goes with history encoder"),
        ({"history": "both"}, "history 'both': take one of decoder, encoder"),
        ({"fit_on": "test"}, "fit_on 'test': take one of train, train.validation, all"),
        ({"item_text": ["reviews"]}, "item_text 'reviews': take some of"),
        ({"user_dropout": 1.5}, "user_dropout 1.5: give a share between 0 and 1"),
        ({"metric_for_best_model": "hr@5"}, "metric_for_best_model 'hr@5': take one of ndcg@10, loss"),
        ({"softmax_negatives": 0}, "softmax_negatives 0: give more than 0"),
        ({"max_history": 600}, "max_history 600: the whole-word table has 512 rows"),
    ):
        with pytest.raises(UserError, match=message):
            train(recipe(**changes))


def test_a_signal_is_met_at_the_end_of_a_step(recipe, monkeypatch):
    from rdrec.training import loop

    step = loop.Run._step

    def interrupted(self, *rest):
        step(self, *rest)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Run, "_step", interrupted)
    assert train(recipe()) is None


def test_an_overwritten_folder_keeps_nothing_of_the_run_before(tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors", "catalog_pieces.npy", "config.json", "mine.txt"):
        (tmp_path / name).write_text("{}")
    run_folder.prepare_output_dir(tmp_path, None, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_model_to_start_from_is_not_overwritten(recipe, tmp_path):
    train(recipe(prior_weight=0.0))
    again = {"model_name_or_path": str(tmp_path / "run"), "model_config": None}
    before = weights(tmp_path / "run")
    with pytest.raises(UserError, match="holds the model to start from: give another --output_dir"):
        train(recipe(overwrite_output_dir=True, **again))
    assert weights(tmp_path / "run") == before


def test_what_a_checkpoint_has_seen_it_has_seen(recipe, tmp_path, sample_data):
    train(recipe(fit_on="all", max_train_steps=2))
    again = {"model_name_or_path": str(tmp_path / "run"), "model_config": None}
    model, _ = make_model(recipe(**again), sample_data)
    assert model.config.fit_on == "all"
    with pytest.raises(UserError, match="adapters keep their base's fit_on"):
        make_model(recipe(lora_rank=2, **again), sample_data)
    with pytest.raises(UserError, match="adapters keep their base's history"):
        make_model(recipe(lora_rank=2, fit_on="all", history="encoder", **again), sample_data)


def test_a_published_dataset_is_not_trained_in_the_decoder(recipe, sample_data, monkeypatch):
    monkeypatch.setattr(sample_data, "protocol", "published")
    with pytest.raises(UserError, match="built under the published protocol, which is the paper's: give history enco"):
        make_model(recipe(), sample_data)


def test_a_training_that_diverges_says_so_without_texts_too(recipe, monkeypatch):
    from rdrec.training import loop

    step = loop.Run._step

    def ruined(self, *rest):
        step(self, *rest)
        with torch.no_grad():
            self.model.shared.weight.fill_(torch.nan)

    monkeypatch.setattr(loop.Run, "_step", ruined)
    with pytest.raises(UserError, match="the training diverged before step"):
        train(recipe(task_ratio=[0, 1, 0, 0]))


def test_a_finished_run_can_be_resumed(recipe, tmp_path):
    first = train(recipe())
    again = train(recipe(resume_from_checkpoint="last"))
    assert again.steps == first.steps == 6


def test_a_run_starts_from_adapters_but_puts_none_over_them(recipe, tmp_path, tiny_checkpoint, sample_data):
    adapters = tmp_path / "run"
    train(recipe(model_name_or_path=str(tiny_checkpoint), model_config=None, lora_rank=2, max_train_steps=2))
    assert (adapters / "adapter_config.json").is_file() and not (adapters / "config.json").exists()
    again = {"model_name_or_path": str(adapters), "model_config": None, "output_dir": str(tmp_path / "next")}
    model, _ = make_model(recipe(**again), sample_data)
    assert model.config.history == "encoder"  # as the base of the adapters does, not as a new model would
    with pytest.raises(UserError, match="is adapters itself, which adapters cannot be loaded over"):
        make_model(recipe(lora_rank=2, **again), sample_data)
