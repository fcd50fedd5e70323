"""The Space as it is published beside its model, and started from what was pushed."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import HfApi, SpaceCard, snapshot_download
from huggingface_hub.utils import get_session

from rdrec.publishing import cards, push
from rdrec.publishing.hub import PublishError, sha256_of
from tests.conftest import ROOT
from tests.fakes.releasing import ask_stranger, asked


SPACE = "rdrec/rdrec-sample"


def measured(checkpoint: Path, folder: Path, sample_dir: Path, **changes) -> Path:
    """A copy of a checkpoint with results beside it, so that it can be published."""
    shutil.copytree(checkpoint, folder)
    info = json.loads((sample_dir / "build_info.json").read_text()) | changes
    results = {"model_sha256": sha256_of(folder / "model.safetensors"), "dataset": info, "results": {}}
    results |= {"protocol": info["protocol"], "split": "test", "max_samples": None}
    (folder / "eval_results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint, tmp_path, sample_dir):
    return measured(tiny_checkpoint, tmp_path / "tiny", sample_dir)


@pytest.mark.slow
def test_a_visitor_of_the_published_space_gets_the_models_answers(
    hub, checkpoint, sample_dir, sample_data, model, tokenizer, tmp_path, capsys, monkeypatch
):
    real = push.verify
    # Models and datasets are verified in test_hub_release.py.
    monkeypatch.setattr(push, "verify", lambda *rest: real(*rest) if rest[0].kind == "space" else "not here")
    flags = ("--model", checkpoint, "--dataset", sample_dir, "--space")
    asked(*flags, "--tag", "v1").run()
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines() if "verified" in line] == [
        "dataset rdrec/sample-rationales",
        "model rdrec/rdrec-sample",
        "space rdrec/rdrec-sample",
    ]
    assert "11 files equal, its model and dataset loaded, 3 items recommended" in printed
    held = hub.files(SPACE, "space")
    assert set(held) == {
        *("README.md", "app.py", "answers.py", "histories.py", "names.py", "requirements.txt", "space.json"),
        *("page/index.html", "page/page.css", "page/page.js", "release.json", ".gitattributes"),
    }
    assert json.loads(held["space.json"]) == {
        "model": {"id": "rdrec/rdrec-sample", "revision": "v1"},
        "dataset": {"id": "rdrec/sample-rationales", "revision": "v1"},
    }
    card = SpaceCard(held["README.md"].decode())
    card.validate()
    assert (card.data.sdk, card.data.app_file, card.data.models) == ("gradio", "app.py", ["rdrec/rdrec-sample"])
    assert card.data.datasets == ["rdrec/sample-rationales"] and "rdrec" in card.data.tags
    assert HfApi().space_info(SPACE).sdk == "gradio" and hub.repo(SPACE, "space").tags.keys() == {"v1"}

    folder = snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "visited")
    found = ask_stranger("visitor.py", folder, tokenizer.to_raw("user", 2), folder=tmp_path)
    for name in ("index.html", "page.js", "page.css"):
        assert found["" if name == "index.html" else f"page/{name}"] == held[f"page/{name}"].decode()
    assert found["about"]["model"] == {
        "name": "rdrec/rdrec-sample",
        "url": "https://huggingface.co/rdrec/rdrec-sample",
    }
    assert found["about"]["dataset"]["url"] == "https://huggingface.co/datasets/rdrec/sample-rationales"
    bought = sample_data.sequences[1].tolist()
    best = model.recommend(tokenizer, user=2, history=bought[:-1], k=4, internal_ids=True)
    answer = found["recommended"]
    assert [item["id"] for item in answer["history"]] == [tokenizer.to_raw("item", item) for item in bought[:-1]]
    assert [item["id"] for item in answer["items"]] == [tokenizer.to_raw("item", item) for item in best.items]
    assert [item["score"] for item in answer["items"]] == pytest.approx(best.scores, abs=1e-5)
    assert answer["bought_next"]["id"] == tokenizer.to_raw("item", bought[-1]) and len(answer["counting"]) == 4
    assert found["explained"][0]["id"] == answer["items"][0]["id"]
    assert found["explained"][0]["explanation"] == model.explain(
        tokenizer, user=2, item=best.items[0], internal_ids=True
    )
    assert "no item '<b>nothing</b>' in this catalog" in found["error"]

    # The same once more changes nothing; a Space alone shows what is on the Hub.
    monkeypatch.setattr(push, "verify", lambda *rest: "not again, for time's sake")
    asked(*flags, "--tag", "v1").run()
    assert capsys.readouterr().out.count("nothing changed, still commit") == 3
    assert len(hub.titles(SPACE, "space")) == 2
    ids = ("--hub_model_id", "rdrec/rdrec-sample", "--hub_dataset_id", "rdrec/sample-rationales")
    asked("--space", *ids, "--hub_space_id", "lab/show", "--private", "--revision", "v1").run()
    settings = json.loads(hub.files("lab/show", "space")["space.json"])  # on main, which the Hub runs
    assert {one["revision"] for one in settings.values()} == {"v1"} and hub.repo("lab/show", "space").private
    assert list(hub.repo("lab/show", "space").branches) == ["main"]
    with pytest.raises(PublishError, match="model rdrec/rdrec-sample: no such repo on the Hub .revision v2"):
        asked("--space", *ids, "--revision", "v2").run()


def test_a_space_of_what_is_not_on_the_hub_is_refused(hub):
    ids = ("--hub_model_id", "rdrec/m", "--hub_dataset_id", "rdrec/d")
    with pytest.raises(PublishError, match="model rdrec/m: no such repo on the Hub .*: push it first"):
        asked("--space", *ids).run()
    HfApi().create_repo("rdrec/m")
    with pytest.raises(PublishError, match="model rdrec/m: has no catalog.json, .*: give a whole checkpoint"):
        asked("--space", *ids).run()
    assert list(hub.repos) == [("model", "rdrec/m")]


def test_a_dry_run_lists_the_space(hub, checkpoint, tiny_checkpoint, sample_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    asked("--model", checkpoint, "--dataset", sample_dir, "--space", "--dry-run").run()
    printed = capsys.readouterr().out
    assert printed.index("model rdrec/rdrec-sample: ") < printed.index("space rdrec/rdrec-sample: 11 files")
    assert all(f"  {name}\n" in printed.split("space rdrec")[1] for name in ("app.py", "page/page.js", "README.md"))
    assert not hub.requests and str(tmp_path) not in printed
    published = measured(tiny_checkpoint, tmp_path / "published", sample_dir, protocol="published")
    parts = asked("--model", published, "--hub_dataset_id", "rdrec/d", "--space").parts()
    assert [str(part.target) for part in parts] == [f"{kind} {SPACE}-published" for kind in ("model", "space")]


def test_what_a_space_cannot_show_is_refused_before_anything_is_sent(hub, checkpoint, sample_dir):
    model, dataset = ("--model", checkpoint), ("--dataset", sample_dir)
    cases = {
        ("--space",): "--space needs a model: give --model FOLDER to push it too, or --hub_model_id",
        ("--space", *dataset): "--space needs a model",
        ("--space", *model): "--space needs a dataset: give --dataset FOLDER .*or --hub_dataset_id of one",
        (*model, "--hub_space_id", "rdrec/x"): "--hub_space_id names a Space: add --space",
        (*model, *dataset, "--space", "--hub_space_id", "a b/c"): "'a b/c' is no repo id",
        (*dataset, "--space", "--hub_model_id", "alone"): "'alone' is no repo id: give NAMESPACE/NAME",
    }
    for flags, message in cases.items():
        with pytest.raises(PublishError, match=message) as refusal:
            asked(*flags).run()
        assert "\n" not in str(refusal.value)
    (checkpoint / "catalog.json").unlink()
    with pytest.raises(PublishError, match="model rdrec/rdrec-sample: has no catalog.json, which the Space reads"):
        asked(*model, "--hub_dataset_id", "rdrec/d", "--space").run()
    assert not hub.repos and not hub.requests


def test_the_loopback_hub_is_as_strict_as_the_true_one(hub):
    api = HfApi()
    # The client would not send this; that is how the Hub's answer can be seen.
    answer = get_session().post(
        f"{hub.url}/api/repos/create", json={"name": "x", "type": "space"}, headers=api._build_hf_headers()
    )
    assert answer.status_code == 400 and "a Space needs an sdk" in answer.text and not hub.repos
    for name in ("null", "1e3", "on"):
        card = SpaceCard(cards.space_card(f"rdrec/{name}", "rdrec/m", "rdrec/d"))
        card.validate()
        assert card.data.title == name
    for wrong in ("sdk: gradioo", "colorFrom: teal", f"short_description: {'x' * 61}", "models: [1]"):
        with pytest.raises(ValueError, match="must be|length must"):
            SpaceCard(f"---\n{wrong}\n---\n").validate()


def test_the_space_runs_on_what_the_tests_ran_with():
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    assert set((ROOT / "space" / "requirements.txt").read_text().splitlines()) <= set(pinned)
    assert f"gradio=={cards.GRADIO}" in (ROOT / "requirements-dev.txt").read_text().splitlines()
