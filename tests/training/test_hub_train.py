"""Training from the Hub and back to it: dataset and base by name, adapters, the release's files by URL, broken caches.

pytest tests/training/test_hub_train.py
"""

import json
import sys
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import HfApi
from peft import LoraConfig
from safetensors import safe_open

import train
from dataset_builder import DatasetError, build_tables_from_reference
from rdrec.checkpoints.loading import load_pretrained
from rdrec.publishing.hub import Hub, Target
from rdrec.training.recipe import Recipe
from rdrec.training.start import make_model
from tests.conftest import TINY_MODEL
from tests.dataset_builder.test_reference_import import write_reference
from tests.fakes.hub_server import Fault


def put(folder: Path, repo_id: str, kind: str = "model") -> None:
    """Publish a folder as it is."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    files["README.md"] = files.get("README.md", b"---\nlicense: mit\n---\n# x\n")
    client = Hub()
    client.push(client.inspect(Target(repo_id, kind), files))


@pytest.mark.slow
def test_adapters_are_trained_over_a_published_base_and_published(
    hub, tiny_checkpoint, sample_dir, tmp_path, monkeypatch, capfd
):
    put(tiny_checkpoint, "rdrec/base")
    put(sample_dir, "rdrec/sample-rationales", "dataset")
    flags = {
        "dataset": "rdrec/sample-rationales",
        "model_name_or_path": "rdrec/base",
        "model_revision": hub.repo("rdrec/base").branches["main"],
        "output_dir": str(tmp_path / "lora"),
        "lora-rank": 2,
        "train_batch_size": 12,
        "max_train_steps": 2,
        "max_eval_samples": 8,
        "learning_rate": 0.05,
        "report_to": "none",
        "push_to_hub": "true",
        "hub_model_id": "rdrec/adapters",
        "hub_private_repo": "true",
    }
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(sys, "argv", ["train.py", *(f"--{name}={value}" for name, value in flags.items())])
    assert train.main() == 0
    out, err = capfd.readouterr()
    assert "model rdrec/adapters: verified:" in out and "answers equal bit for bit" in out
    assert "hf_writer" not in out + err
    repo, files = hub.repo("rdrec/adapters"), hub.files("rdrec/adapters")
    assert repo.private and len(hub.titles("rdrec/adapters")) == 2
    assert "model.safetensors" not in files and "config.json" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "rdrec/base"
    card = files["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "rdrec/adapters")' in card and "base_model: rdrec/base" in card
    assert f'revision="{flags["model_revision"]}"' in card and "library_name: peft" in card
    assert json.loads(files["training_record.json"])["recipe"]["lora_rank"] == 2
    with safe_open(tmp_path / "lora" / "adapter_model.safetensors", "pt") as held:
        names = {name.removeprefix("base_model.model.") for name in held.keys()}
    assert {"prompt_embeddings.weight", "whole_word_embeddings.weight"} <= names
    assert all(".lora_" in name or "_embeddings" in name for name in names)


def test_adapters_of_a_folder_answer_as_the_model_they_were_saved_from(tiny_checkpoint, sample_data, tmp_path):
    recipe = Recipe(model_name_or_path=str(tiny_checkpoint), lora_rank=2)
    model, tokenizer = make_model(recipe, sample_data)
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moving and all("lora_" in name or "modules_to_save" in name for name in moving)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    merged, again = load_pretrained(str(tmp_path))
    batch = tokenizer(["user_1 item_2"], return_tensors="pt")
    batch |= {"task_ids": torch.tensor([1]), "labels": torch.tensor([[3, 1]])}
    with torch.inference_mode():
        wanted, got = model(**batch).logits, merged.eval()(**batch).logits
        plain = load_pretrained(str(tiny_checkpoint))[0].eval()(**batch).logits
    assert torch.allclose(got, wanted, atol=1e-4) and not torch.allclose(got, plain, atol=1e-2)
    assert again.catalog == tokenizer.catalog
    query = {"user": 3, "candidates": list(range(1, 30)), "internal_ids": True}
    apart, together = model.rank(tokenizer, **query), merged.rank(again, **query)
    assert apart.items == together.items and apart.scores == pytest.approx(together.scores, abs=1e-4)


def test_an_adapter_beside_the_head_is_refused_where_only_the_head_s_weight_would_be_read(tiny_checkpoint):
    model, tokenizer = load_pretrained(str(tiny_checkpoint))
    model.add_adapter(LoraConfig(r=2, target_modules=["lm_head"]))
    with pytest.raises(ValueError, match="lm_head is a peft.*: merge adapters first"):
        model.rank(tokenizer, user=1, candidates=[1, 2], internal_ids=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_rank": 4, "model_config": TINY_MODEL}, "lora_rank: adapters need a checkpoint under them"),
        ({"lora_rank": 0}, "lora_rank 0: give more than 0"),
        ({"push_to_hub": True}, "push_to_hub: say where: give hub_model_id NAMESPACE/NAME"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**settings)


def test_a_token_without_rights_is_told_before_training(hub, tmp_path, monkeypatch):
    flags = ["--model_config", TINY_MODEL, "--output_dir", str(tmp_path / "run"), "--push_to_hub"]
    for token, repo_id, message in (
        ("hf_reader", "rdrec/m", "the Hugging Face token of rdrec may only read"),
        ("hf_writer", "other/m", "other is not yours: your token writes to rdrec, lab"),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(sys, "argv", ["train.py", *flags, "--hub_model_id", repo_id])
        with pytest.raises(ValueError, match=message):
            train.main()
    assert not (tmp_path / "run").exists() and not hub.repos


def test_the_release_is_imported_from_a_url(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    folder = write_reference(tmp_path / "ref")
    (folder / "item_text.txt").unlink()
    api = HfApi()
    api.create_repo("rdrec/files", repo_type="dataset")
    api.upload_folder(repo_id="rdrec/files", repo_type="dataset", folder_path=folder, path_in_repo="beauty")
    url = f"{hub.url}/datasets/rdrec/files/resolve/main/beauty"
    hub.faults = [Fault("datamaps.json", status=500), Fault("explanation_rationale.json", times=2, cut="reply")]
    settings = {"domain": "beauty", "num_negatives": 7}
    here, there = (build_tables_from_reference(source, **settings) for source in (folder, url + "/"))
    assert there.info == here.info and there.info["counts"]["with_rationale"]["train"] > 0
    with pytest.raises(DatasetError, match="nothing: no sequential.txt or sequential.txt.gz below it; check the URL"):
        build_tables_from_reference(url.replace("beauty", "nothing"), **settings)
    hub.faults = [Fault("sequential.txt", times=9, status=503)]
    with pytest.raises(DatasetError, match="sequential.txt: not downloaded .*503.*; try again later"):
        build_tables_from_reference(url, **settings)


@pytest.mark.slow
def test_a_half_downloaded_cache_is_completed_or_named(hub, tiny_checkpoint, tmp_path, monkeypatch):
    """A download of the weights was cut off, and for a while the Hub does not answer."""
    put(tiny_checkpoint, "rdrec/base")
    load_pretrained("rdrec/base")
    snapshot = next((tmp_path / "cache").glob("models--rdrec--base/snapshots/*"))
    blob = (snapshot / "model.safetensors").resolve()
    content = blob.read_bytes()
    (snapshot / "model.safetensors").unlink()
    blob.unlink()
    blob.with_name(f"{blob.name}.incomplete").write_bytes(content[:1000])
    with monkeypatch.context() as offline:
        offline.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="rdrec/base: its weights are not all there .*: get it anew") as error:
            load_pretrained("rdrec/base")
        assert "\n" not in str(error.value)
    load_pretrained("rdrec/base")
    assert (snapshot / "model.safetensors").read_bytes() == content
