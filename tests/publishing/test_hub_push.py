"""Pushing to a Hub that misbehaves: what arrives, what is refused, and what a cut leaves behind."""

import random
import time

import pytest
from huggingface_hub import HfApi

from rdrec.publishing.hub import MANIFEST, Hub, PublishError, Target
from tests.fakes.hub_server import Account, Fault, HubServer


MODEL = Target("rdrec/m")
CARD = b"---\nlicense: mit\n---\n# A model\n"


def some_files(**changes) -> dict:
    """A card, two small files and two large ones; equal calls give equal bytes."""
    make = random.Random(0)
    files = {
        "README.md": CARD,
        "config.json": b'{"a": 1}',
        "code.py": b"x = 1\n",
        "model.safetensors": make.randbytes(40_000),
        "catalog.npz": make.randbytes(9_000),
    }
    return {**files, **changes}


def push(files: dict, target: Target = MODEL) -> str:
    hub = Hub()
    return hub.push(hub.inspect(target, files))


@pytest.fixture
def waits(monkeypatch):
    """Nobody waits; what would have been waited for is kept."""
    kept = []
    monkeypatch.setattr(time, "sleep", kept.append)
    return kept


def test_one_commit_brings_everything_and_the_same_again_brings_none(hub):
    files = some_files()
    commit = push(files)
    held = hub.files("rdrec/m")
    assert set(held) == {*files, MANIFEST, ".gitattributes"} and all(held[path] == files[path] for path in files)
    assert hub.titles("rdrec/m") == ["initial commit", "Publish 6 files"]
    hub.requests.clear()
    assert push(files) == commit and len(hub.titles("rdrec/m")) == 2
    assert not [line for line in hub.requests if "/commit/" in line or "/lfs/" in line]


def test_a_change_brings_only_what_changed_and_takes_away_what_is_gone(hub):
    push(some_files())
    api = HfApi()
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="rdrec/m")
    files = some_files(**{"config.json": b'{"a": 2}'})
    del files["catalog.npz"]
    hub.requests.clear()
    push(files)
    assert set(hub.files("rdrec/m")) == {*files, MANIFEST, ".gitattributes", "notes.txt"}
    assert hub.titles("rdrec/m")[-1] == "Publish 2 files, drop 1"
    assert not [line for line in hub.requests if line.startswith("PUT")]


def test_branches_and_tags(hub):
    first = push(some_files(), Target("rdrec/m", tag="v1"))
    assert push(some_files(), Target("rdrec/m", tag="v1")) == first and hub.repo("rdrec/m").tags == {"v1": first}
    other = some_files(**{"code.py": b"x = 2\n"})
    with pytest.raises(
        PublishError, match="tag v1 stands for commit .* which holds other files: give a tag of another"
    ):
        push(other, Target("rdrec/m", tag="v1"))
    second = push(other, Target("rdrec/m", revision="next", tag="v2"))
    repo = hub.repo("rdrec/m")
    assert repo.branches == {"main": first, "next": second} and repo.tags == {"v1": first, "v2": second}
    assert hub.files("rdrec/m")["code.py"] == b"x = 1\n"
    # A tag alone needs no commit.
    assert push(other, Target("rdrec/m", revision="next", tag="v3")) == second and repo.tags["v3"] == second


def test_private_repos_of_an_organization(hub):
    push(some_files(), Target("lab/m", "dataset", private=True))
    assert hub.repo("lab/m", "dataset").private
    with pytest.raises(Exception, match="401|Repository Not Found"):
        HfApi(token=False).dataset_info("lab/m")
    push(some_files(), Target("lab/open"))
    with pytest.raises(PublishError, match="model lab/open exists and is public: make it private in its settings"):
        push(some_files(), Target("lab/open", private=True))


def test_large_files_in_parts(hub):
    hub.part_size = 7_000
    push(some_files())
    assert hub.files("rdrec/m")["model.safetensors"] == some_files()["model.safetensors"]
    assert sum(line.startswith("PUT") for line in hub.requests) == 6 + 2
    assert not list((hub.folder / "parts").iterdir())


@pytest.mark.parametrize("cut_in", [0.02, 0.3, 0.55, 0.8, 0.97])
def test_a_cut_push_leaves_nothing_half_done_and_goes_on(hub, waits, cut_in):
    push(some_files(), Target("rdrec/whole"))
    whole = hub.spent
    push(some_files(**{"config.json": b"{}"}))
    before, files = hub.files("rdrec/m"), some_files(**{"model.safetensors": b"new" * 15_000, "new.npz": b"2" * 9000})
    hub.cut_after(int(whole * cut_in))
    with pytest.raises(PublishError, match="(broke|does not answer) .*: (run the same command again|try again later)"):
        push(files)
    cut = hub.files("rdrec/m")
    hub.cut_after(None)
    push(files)
    held = hub.files("rdrec/m")
    assert cut in (before, held)
    assert all(held[path] == content for path, content in files.items())
    assert hub.titles("rdrec/m")[0] == "initial commit" and len(hub.titles("rdrec/m")) == 3


def test_an_answer_that_is_lost_costs_no_second_commit(hub, waits):
    hub.faults = [Fault("POST /api/models/rdrec/m/commit/main", cut="reply")]
    push(some_files())
    assert len(hub.titles("rdrec/m")) == 2 and waits == [1.0]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST /api/repos/create", times=2, status=500),
        Fault("POST .*/commit/main", times=1, status=502),
        Fault("PUT /lfs/", times=2, status=503),
        Fault("PUT /lfs/", times=1, cut="body"),
        Fault("POST .*/objects/batch", times=1, status=429, headers={"Retry-After": "7"}),
        Fault("GET /api/models/rdrec/m", times=1, status=504),
        Fault("GET /api/whoami", times=1, cut="reply"),
    ],
    ids=lambda fault: f"{fault.route} {fault.cut or fault.status}",
)
def test_passing_faults_are_met_with_patience(hub, waits, fault):
    hub.faults = [fault]
    push(some_files())
    assert fault.times == 0 and waits
    assert len(hub.titles("rdrec/m")) == 2
    assert all(hub.files("rdrec/m")[path] == content for path, content in some_files().items())


def test_a_rate_limit_says_how_long_to_wait(hub, waits):
    hub.faults = [Fault("POST .*/commit/main", status=429, headers={"Retry-After": "42"})]
    push(some_files())
    assert waits == [42.0]


def test_stale_reads_do_not_undo_or_repeat_a_push(hub, waits):
    push(some_files())
    hub.stale_reads = 3  # the Hub still shows the empty repo
    push(some_files(**{"config.json": b"{}"}))
    assert hub.titles("rdrec/m")[1:] == ["Publish 6 files", "Publish 2 files"]
    assert hub.files("rdrec/m")["config.json"] == b"{}"


def test_a_server_that_starts_again_still_has_everything(hub):
    commit = push(some_files(), Target("rdrec/m", tag="v1"))
    again = HubServer(hub.folder)
    assert again.repo("rdrec/m").tags == {"v1": commit} and again.files("rdrec/m") == hub.files("rdrec/m")


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, "rdrec/m", "no Hugging Face token: run `hf auth login`"),
        ("hf_unknown", "rdrec/m", r"does not know your Hugging Face token \(401\): run"),
        ("hf_reader", "rdrec/m", "token of rdrec may only read: make one with write rights at"),
        ("hf_other", "rdrec/m", "rdrec is not yours: your token writes to other; give another"),
        ("hf_writer", "rdrec/what is this", "'rdrec/what is this' is no repo id: "),
        ("hf_writer", "rdrec", "'rdrec' is no repo id: give NAMESPACE/NAME"),
    ],
)
def test_who_may_not_push_is_told_before_anything_is_written(hub, monkeypatch, token, repo_id, message):
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(PublishError, match=message) as refusal:
        push(some_files(), Target(repo_id))
    assert "\n" not in str(refusal.value) and (token is None or token not in str(refusal.value))
    assert not hub.repos and not [line for line in hub.requests if not line.startswith("GET")]


def test_rights_that_only_the_repo_knows(hub, monkeypatch):
    """A fine-grained token says nothing of its rights beforehand."""
    hub.tokens["hf_fine"] = Account("rdrec", role="fineGrained")
    monkeypatch.setenv("HF_TOKEN", "hf_fine")
    with pytest.raises(PublishError, match=r"model rdrec/m: your token may not write there \(403\): give it"):
        push(some_files())
    assert not hub.repos


def test_a_repo_that_holds_something_else_is_left_alone(hub):
    api = HfApi()
    api.create_repo("rdrec/m")
    api.upload_file(path_or_fileobj=b"theirs", path_in_repo="model.bin", repo_id="rdrec/m")
    with pytest.raises(PublishError, match="model rdrec/m exists and holds something else .*: give another name"):
        push(some_files())
    assert hub.titles("rdrec/m")[-1] != "Publish 6 files"


def test_a_card_that_the_hub_refuses_stops_the_push(hub):
    for metadata in (b"license: [1]", b"tags: [1]", b"license: {"):
        with pytest.raises(PublishError, match="model rdrec/m: the Hub does not accept its card"):
            push(some_files(**{"README.md": b"---\n" + metadata + b"\n---\n"}))
    assert not hub.repos


def test_offline_is_named(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        push(some_files())


def test_the_token_is_in_no_error(hub, waits):
    hub.faults = [Fault("POST .*/commit/main", times=99, status=500)]
    with pytest.raises(PublishError) as error:
        push(some_files())
    assert "hf_writer" not in str(error.value) and error.value.__cause__ is None
