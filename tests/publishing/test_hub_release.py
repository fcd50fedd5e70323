"""Whole pushes through `push_to_hub.py`, and what a stranger gets from them."""

import shutil

import pytest
import torch
from huggingface_hub import ModelCard

from modeling_rdrec import RDRecForConditionalGeneration, RDRecTokenizer
from rdrec.publishing.hub import PublishError, Target
from rdrec.publishing.verify import verify
from rdrec.training.loop import train
from rdrec.training.recipe import Recipe
from tests.conftest import TINY_MODEL
from tests.fakes.releasing import ask_stranger, asked
from tests.fakes.stranger import answers


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, sample_dir):
    """A run of a few steps: a checkpoint with its record."""
    folder = tmp_path_factory.mktemp("run") / "run"
    recipe = Recipe(
        dataset=str(sample_dir),
        output_dir=str(folder),
        model_config=TINY_MODEL,
        ids_as_tokens=True,
        train_batch_size=12,
        max_train_steps=4,
        learning_rate=0.01,
        max_eval_samples=8,
        report_to="none",
    )
    train(recipe)
    return folder


def push(*flags) -> None:
    asked(*flags).run()


@pytest.mark.slow
def test_a_stranger_gets_the_same_answers_bit_for_bit(hub, run_dir, sample_dir, tmp_path, capsys, monkeypatch):
    model, tokenizer = (kind.from_pretrained(run_dir) for kind in (RDRecForConditionalGeneration, RDRecTokenizer))
    before = answers(model.eval(), tokenizer)
    push("--model", run_dir, "--dataset", sample_dir, "--metrics", "ranking", "--tag", "v1.0")
    printed = capsys.readouterr().out
    assert printed.count("verified:") == 3 and "answers equal bit for bit" in printed
    commit = hub.repo("rdrec/rdrec-sample").branches["main"]
    names = ["rdrec/rdrec-sample", "rdrec/sample-rationales", "rdrec/ranking", commit]
    found = ask_stranger("stranger.py", *names, folder=tmp_path, OMP_NUM_THREADS=str(torch.get_num_threads()))
    assert {key: found[key] for key in before} == before == found["pinned"] and found["model_type"] == "rdrec"
    assert [[row["item"] for row in rows] for rows in found["pipeline"]][1] == before["rank"][0][0]
    assert all(set(row) == {"item", "score", "explanation"} for rows in found["pipeline"] for row in rows)
    assert found["rows"]["train"] == 3327
    assert found["metric"]["ndcg@5"] == pytest.approx(0.6309, abs=1e-4)
    # The same once more: nothing to do, and the repos' histories say so.
    monkeypatch.setattr("rdrec.publishing.push.verify", lambda *rest: "not again, for time's sake")
    push("--model", run_dir, "--dataset", sample_dir, "--metrics", "ranking", "--tag", "v1.0")
    assert capsys.readouterr().out.count("nothing changed, still commit") == 3
    for repo_id, kind in (("rdrec-sample", "model"), ("sample-rationales", "dataset"), ("ranking", "space")):
        assert len(hub.titles(f"rdrec/{repo_id}", kind)) == 2


@pytest.mark.slow
def test_a_dry_run_asks_nobody(hub, run_dir, sample_dir, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    push("--model", run_dir, "--dataset", sample_dir, "--dry-run", "--revision", "next")
    printed = capsys.readouterr().out
    assert "dataset rdrec/sample-rationales on branch next: 10 files" in printed
    assert "model rdrec/rdrec-sample on branch next:" in printed and " model.safetensors\n" in printed
    assert not hub.requests and str(run_dir.parent) not in printed


@pytest.mark.slow
def test_flags_reach_the_models_card(run_dir):
    flags = ("--language", "de", "--license", "mit", "--pipeline_tag", "text-ranking")
    (part,) = asked("--model", run_dir, *flags).parts()
    data = ModelCard(part.files["README.md"].decode()).data
    assert (data.language, data.license, data.pipeline_tag) == (["de"], "mit", "text-ranking")


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused_before_anything_is_sent(hub, run_dir, sample_dir, tmp_path):
    from rdrec.sample.build import build_sample

    other = build_sample(tmp_path / "other", seed=1)
    damaged = shutil.copytree(run_dir, tmp_path / "damaged", ignore=shutil.ignore_patterns("checkpoint*"))
    (damaged / "model.safetensors").write_bytes(b"half a file")
    cases = {
        (): "nothing to push: give --model, --dataset, --metrics or --space",
        ("--model", run_dir, "--dataset", other): "give the dataset it was trained on|fingerprints differ",
        ("--model", damaged): "its weights are damaged",
        ("--model", tmp_path / "none"): "--model .*none: no such folder",
        ("--dataset", tmp_path / "none"): "--dataset .*none: no such folder: build it",
        ("--dataset", run_dir): "not a built dataset",
        ("--metrics", "bleu"): "--metrics bleu: unknown, take some of beyond_accuracy, explanation, ranking",
        ("--dataset", sample_dir, "--tag", "v 1"): "--tag 'v 1': no name for a branch or tag",
        ("--dataset", sample_dir, "--revision", "a..b"): "--revision 'a..b': no name for a branch or tag",
        ("--dataset", sample_dir, "--hub_dataset_id", "a b/c"): "'a b/c' is no repo id",
    }
    for flags, message in cases.items():
        with pytest.raises(ValueError, match=message):
            push(*flags)
    assert not hub.repos and not hub.requests


@pytest.mark.slow
def test_a_repo_that_comes_back_different_is_noticed(hub):
    from rdrec.publishing.hub import Hub, with_manifest

    files = {"README.md": b"---\nlicense: mit\n---\n# x\n", "a.json": b"{}"}
    target = Target("rdrec/ranking", "space")
    hub_client = Hub()
    commit = hub_client.push(hub_client.inspect(target, files))
    assert verify(target, with_manifest(files), commit, hub.url) == "3 files equal"
    with pytest.raises(PublishError, match="space rdrec/ranking is pushed .* but a.json came back different"):
        verify(target, {**with_manifest(files), "a.json": b"[]"}, commit, hub.url)
    with pytest.raises(PublishError, match="does not load from the Hub"):
        verify(target, files, "0" * 40, hub.url)
