"""eval.py on the tiny checkpoint: answers, files, several processes, protocols, and how mistakes are named."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from rdrec.checkpoints.loading import load_pretrained
from rdrec.evaluation.answers import answer_items
from rdrec.evaluation.runner import Evaluation
from rdrec.evaluation.settings import EvaluationSettings
from tests.conftest import ROOT, launched_on


@pytest.fixture
def arguments(tiny_checkpoint, sample_dir, tmp_path):
    def make(**changes):
        settings = {
            "model": str(tiny_checkpoint),
            "dataset": str(sample_dir),
            "output_dir": str(tmp_path / "out"),
            "max_samples": 20,
            "batch_size": 8,
        }
        return EvaluationSettings(**{**settings, **changes})

    return make


def answers(folder, task, split="test"):
    return pq.read_table(folder / f"eval_{split}_{task}.parquet")


@pytest.mark.slow
def test_an_evaluation_leaves_results_answers_and_a_table(arguments, tmp_path, sample_data):
    table = Evaluation(arguments()).run()
    assert "planted ceiling" not in table  # of all users, so not beside twenty
    for word in ("transitions", "popularity", "random", "model", "hr@10", "rouge-l-f"):
        assert word in table
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert results["protocol"] == "clean" and results["split"] == "test"
    assert set(results["results"]) == {"sequential", "topn", "explanation"}
    assert results["queries"] == {"sequential": 20, "topn": 20, "explanation": 20}
    assert len(results["model_sha256"]) == 64
    for task in ("sequential", "topn"):
        rows = answers(tmp_path / "out", task).to_pylist()
        for row in rows:
            assert row["target"] == sample_data.sequences[row["user"] - 1][-1]
            found = row["items"].index(row["target"]) + 1 if row["target"] in row["items"] else None
            assert row["rank"] == found and len(row["items"]) == {"sequential": 15, "topn": 100}[task]
            assert row["scores"] == sorted(row["scores"], reverse=True)
        hits = sum(row["rank"] is not None and row["rank"] <= 10 for row in rows) / len(rows)
        assert results["results"][task]["hr@10"] == pytest.approx(hits)
    shown = {item for row in answers(tmp_path / "out", "sequential").to_pylist() for item in row["items"][:10]}
    assert set(results["beyond_accuracy"]) == {"sequential"}
    assert results["beyond_accuracy"]["sequential"]["coverage@10"] == pytest.approx(len(shown) / sample_data.num_items)
    assert results["beyond_accuracy"]["sequential"]["diversity@10"] > 0
    for task, kinds in {"sequential": 3, "topn": 3, "explanation": 1}.items():
        assert len(results["segments"][task]) == kinds
        for parts in results["segments"][task].values():
            assert sum(part["queries"] for part in parts.values()) == 20
    for words in ("coverage@10", "topn by item", "explanation by review"):
        assert words in table
    texts = answers(tmp_path / "out", "explanation").to_pylist()
    assert [row["reference"] for row in texts] == sample_data.texts["test"].explanation[:20]


@pytest.mark.slow
def test_sequential_answers_leave_out_the_history_and_topn_answers_are_candidates(arguments, tmp_path, sample_data):
    Evaluation(arguments(tasks=["sequential", "topn"], split="validation")).run()
    for row in answers(tmp_path / "out", "sequential", "validation").to_pylist():
        assert row["target"] == sample_data.sequences[row["user"] - 1][-2]
        assert not set(row["items"]) & set(sample_data.sequences[row["user"] - 1][:-2].tolist())
    for row in answers(tmp_path / "out", "topn", "validation").to_pylist():
        negatives = sample_data.candidates["validation"][1][row["user"] - 1].tolist()
        assert set(row["items"]) <= {*negatives, row["target"]}


@pytest.mark.slow
def test_batch_size_changes_no_answer(arguments, tmp_path):
    Evaluation(arguments(output_dir=str(tmp_path / "a"))).run()
    Evaluation(arguments(output_dir=str(tmp_path / "b"), batch_size=3)).run()
    for task in ("sequential", "topn", "explanation"):
        a, b = (answers(tmp_path / name, task) for name in "ab")
        assert a.drop_columns(["scores"] * ("scores" in a.column_names)) == b.drop_columns(
            ["scores"] * ("scores" in b.column_names)
        )


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_the_answers_of_one(arguments, tmp_path, sample_dir, tiny_checkpoint, processes):
    Evaluation(arguments(output_dir=str(tmp_path / "one"))).run()
    flags = ["--model", tiny_checkpoint, "--dataset", sample_dir, "--output_dir", tmp_path / "several"]
    done = subprocess.run(
        [*launched_on(processes), "eval.py", *map(str, flags), "--max_samples", "20", "--batch_size", "8"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "several" / "eval_results.json").read_text())["processes"] == processes
    for task in ("sequential", "topn", "explanation"):
        one, several = (answers(tmp_path / name, task) for name in ("one", "several"))
        kept = [name for name in one.column_names if name != "scores"]
        assert one.select(kept) == several.select(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["seq"]}, "--tasks seq: unknown"),
        ({"max_samples": 0}, "--max_samples 0: give 1 or more"),
        ({"length_penalty": -0.5}, "--length_penalty -0.5: give 0 or more"),
        ({"split": "train"}, "--split train: take validation or test"),
        ({"protocol": "dirty"}, "--protocol dirty: take clean or published"),
        ({"protocol": "published", "exact": True}, "--exact and --length_penalty: for the clean protocol only"),
        ({"protocol": "published"}, "was built under clean; build it again with --protocol published"),
    ],
)
def test_mistakes_are_named(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        Evaluation(arguments(**changes)).run()


def test_a_checkpoint_of_another_catalog_is_refused(arguments, tiny_checkpoint, tmp_path):
    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    catalog = json.loads((other / "catalog.json").read_text())
    catalog["item"] = catalog["item"][:-1]
    (other / "catalog.json").write_text(json.dumps(catalog))
    with pytest.raises(ValueError, match="trained on a catalog of 400 users and 239 items"):
        Evaluation(arguments(model=str(other))).run()


def test_explanations_stand_beside_what_is_written_and_what_is_quoted(
    arguments, tmp_path, sample_data, tiny_checkpoint
):
    model, tokenizer = load_pretrained(str(tiny_checkpoint))
    model.config.reads_evidence, tokenizer.evidence = True, sample_data.evidence(["explanation", "item_attributes"])
    model.save_pretrained(tmp_path / "reader"), tokenizer.save_pretrained(tmp_path / "reader")
    table = Evaluation(arguments(model=str(tmp_path / "reader"), tasks=["explanation"])).run()
    assert "  beams alone" in table and "  evidence alone" in table and "fmr" in table
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    rows = answers(tmp_path / "out", "explanation").to_pylist()
    assert all(row["prediction"] == row[row["source"]] for row in rows)
    share = sum(row["source"] == "evidence" for row in rows) / len(rows)
    assert results["results"]["explanation"]["from_evidence"] == pytest.approx(100 * share)
    # What is quoted is a sentence of another training review of the item.
    texts = sample_data.texts["train"]
    said = set(zip(texts.item, texts.explanation))
    assert all((row["item"], row["evidence"]) in said for row in rows)
    unique = {name: len({row[name] for row in rows}) / len(rows) for name in ("beams", "evidence")}
    variants = results["variants"]["explanation"]
    assert {f"{name} alone": pytest.approx(100 * value) for name, value in unique.items()} == {
        name: scores["usr"] for name, scores in variants.items()
    }


@pytest.mark.slow
def test_all_users_stand_beside_the_planted_ceiling(arguments, tmp_path):
    assert "planted ceiling" in Evaluation(arguments(tasks=["sequential"], max_samples=None, batch_size=100)).run()


def test_the_ranking_asked_for_reaches_the_model(model, tokenizer, sample_data, monkeypatch):
    asked = []

    def note(self, *rest, **settings):
        asked.append({name: settings.get(name) for name in ("k", "exact", "length_penalty", "prior", "internal_ids")})
        return []

    def note_published(model, tokenizer, task, *rest, **settings):
        asked.append(f"published {task}")
        return []

    for method in ("recommend", "rank"):
        monkeypatch.setattr(type(model), method, note)
    monkeypatch.setattr("rdrec.evaluation.answers.rank_published", note_published)
    for task in ("sequential", "topn"):
        for settings in ({}, {"published": True}, {"exact": True, "length_penalty": 1.0, "prior": False}):
            answer_items(model, tokenizer, sample_data, task, "test", [0], progress=False, **settings)
    plain = {"k": 15, "exact": False, "length_penalty": 0.0, "prior": True, "internal_ids": True}
    changed = {"length_penalty": 1.0, "prior": False}
    topn = {**plain, "k": None, "exact": None}  # candidates are always scored exactly
    assert asked[:3] == [plain, "published sequential", {**plain, **changed, "exact": True}]
    assert asked[3:] == [topn, "published topn", {**topn, **changed}]


def test_published_looks_at_the_papers_beams(model, tokenizer, sample_data, monkeypatch):
    asked = []
    generate = type(model).generate

    def note(self, **settings):
        asked.append(
            [settings[name] for name in ("num_beams", "num_return_sequences", "max_new_tokens", "length_penalty")]
        )
        return generate(self, **settings)

    monkeypatch.setattr(type(model), "generate", note)
    for task in ("sequential", "topn"):
        rows = answer_items(
            model, tokenizer, sample_data, task, "test", [0, 4], published=True, progress=False
        ).to_pylist()
        for row in rows:
            history = set(sample_data.sequences[row["user"] - 1][:-1].tolist())
            candidates = {*sample_data.candidates["test"][1][row["user"] - 1].tolist(), row["target"]}
            allowed = set(range(1, 241)) - history if task == "sequential" else candidates
            assert set(row["items"]) <= allowed and len(set(row["items"])) == len(row["items"])
    assert asked == [[20, 15, 50, 1.0], [20, 10, 50, 1.0]]


@pytest.mark.slow
def test_exact_answers_score_no_less_than_beams(arguments, tmp_path):
    for name, exact in (("beams", False), ("exact", True)):
        Evaluation(arguments(tasks=["sequential"], exact=exact, output_dir=str(tmp_path / name))).run()
        assert json.loads((tmp_path / name / "eval_results.json").read_text())["exact"] == exact
    beams, exact = (answers(tmp_path / name, "sequential")["scores"].to_pylist() for name in ("beams", "exact"))
    for some, best in zip(beams, exact):
        assert all(ours <= theirs + 1e-5 for ours, theirs in zip(some, best))


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_ends_no_evaluation(sample_dir, tiny_checkpoint, tmp_path):
    """Hugging Face's home below a file: not even root writes there. Metrics are computed after all other work."""
    (tmp_path / "file").touch()
    flags = ["--model", tiny_checkpoint, "--dataset", sample_dir, "--output_dir", tmp_path / "out"]
    caches = {name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_")) and name.endswith("_CACHE")}
    done = subprocess.run(
        [sys.executable, "eval.py", *map(str, flags), "--max_samples", "2", "--batch_size", "2"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in caches}
        | {"HF_HOME": str(tmp_path / "file" / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "out" / "eval_results.json").read_text())["results"]
    assert set(results) == {"sequential", "topn", "explanation"}


@pytest.mark.slow
def test_the_script_prints_one_line_for_a_mistake(tmp_path):
    done = subprocess.run(
        [sys.executable, "eval.py", "--model", "x", "--dataset", str(tmp_path / "nowhere")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "no such folder" in done.stderr
