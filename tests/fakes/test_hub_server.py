"""The loopback Hub as the true client sees it: rights, revisions, ranges, pages, and faults on the way down."""

import time
import urllib.request

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.fakes import hub_server
from tests.fakes.hub_server import Fault


LARGE = bytes(range(256)) * 200


@pytest.fixture
def api(hub):
    """The client of the writer, with a model of two files on the Hub."""
    api = HfApi(endpoint=hub.url, token="hf_writer")
    api.create_repo("rdrec/m")
    operations = [CommitOperationAdd("a/b.txt", b"hello"), CommitOperationAdd("m.safetensors", LARGE)]
    api.create_commit("rdrec/m", operations, commit_message="one")
    return api


def fetch(hub, path, **headers):
    request = urllib.request.Request(hub.url + path, headers=headers)
    with urllib.request.urlopen(request) as answer:
        return answer.status, dict(answer.headers), answer.read()


def test_history_revisions_and_trees(hub, api):
    first = api.repo_info("rdrec/m").sha
    api.create_tag("rdrec/m", tag="v1")
    second = api.create_commit(
        "rdrec/m",
        [CommitOperationDelete("a/b.txt"), CommitOperationAdd("c.txt", b"c")],
        commit_message="two",
        parent_commit=first,
    ).oid
    assert [commit.title for commit in api.list_repo_commits("rdrec/m")] == ["two", "one", "initial commit"]
    assert {row.path for row in api.list_repo_tree("rdrec/m", recursive=True)} == {
        ".gitattributes",
        "c.txt",
        "m.safetensors",
    }
    old = {row.path: row for row in api.list_repo_tree("rdrec/m", revision="v1")}
    assert set(old) == {".gitattributes", "a", "m.safetensors"} and old["m.safetensors"].lfs.size == len(LARGE)
    assert api.repo_info("rdrec/m", revision="v1").sha == first != second
    with pytest.raises(RevisionNotFoundError):
        api.repo_info("rdrec/m", revision="nowhere")
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("rdrec/m", [CommitOperationAdd("d", b"")], commit_message="late", parent_commit=first)
    with pytest.raises(EntryNotFoundError):
        api.create_commit("rdrec/m", [CommitOperationDelete("no.txt")], commit_message="gone")
    assert hub.titles("rdrec/m")[-1] == "two"


def test_listings_come_in_pages(hub, api):
    hub.page_size = 2
    operations = [CommitOperationAdd(f"d/{number}.txt", b"x") for number in range(5)]
    api.create_commit("rdrec/m", operations, commit_message="more")
    assert len([row for row in api.list_repo_tree("rdrec/m", recursive=True) if hasattr(row, "size")]) == 8


def test_ranges_and_headers(hub, api):
    status, headers, content = fetch(hub, "/rdrec/m/resolve/main/a/b.txt", Range="bytes=1-3")
    assert (status, content, headers["Content-Range"]) == (206, b"ell", "bytes 1-3/5")
    assert headers["X-Repo-Commit"] == api.repo_info("rdrec/m").sha and headers["ETag"]
    assert fetch(hub, "/rdrec/m/resolve/main/m.safetensors", Range="bytes=300-")[2] == LARGE[300:]
    with HfFileSystem(endpoint=hub.url, token="hf_writer").open("rdrec/m/m.safetensors", block_size=100) as stream:
        stream.seek(500)
        assert stream.read(10) == LARGE[500:510]


def test_who_may_read(hub, api, tmp_path):
    def read(token):
        return snapshot_download("rdrec/m", endpoint=hub.url, token=token, cache_dir=tmp_path / str(token))

    hub.repo("rdrec/m").private = True
    read("hf_writer")
    for token in ("hf_other", False):
        with pytest.raises(RepositoryNotFoundError):
            read(token)
    hub.repo("rdrec/m").private, hub.repo("rdrec/m").gated = False, True
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("rdrec/m", "a/b.txt", token="hf_other", cache_dir=tmp_path / "gated")
    hub.repo("rdrec/m").granted.append("other")
    read("hf_other")
    for action in (
        lambda: api.create_repo("rdrec/x", token="hf_other"),
        lambda: api.create_tag("rdrec/m", tag="t", token="hf_reader"),
    ):
        with pytest.raises(HfHubHTTPError, match="403"):
            action()


def test_a_download_that_is_cut_goes_on_where_it_was(hub, api, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    # The client keeps whole chunks; by default one holds far more than this file.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.faults = [Fault("GET /cdn/", cut="half"), Fault("HEAD .*/resolve/", status=503)]
    before = hub.spent
    path = api.hf_hub_download("rdrec/m", "m.safetensors", cache_dir=tmp_path)
    with open(path, "rb") as stream:
        assert stream.read() == LARGE
    assert [fault.times for fault in hub.faults] == [0, 0] and hub.spent - before < 1.2 * len(LARGE)


def test_the_token_stays_with_the_hub(hub, api, tmp_path, monkeypatch):
    """Large files come from another host, which is told no token."""
    seen, serve = [], hub_server._Handler._cdn

    def noting(handler, oid):
        seen.append(handler.headers.get("Authorization"))
        return serve(handler, oid)

    monkeypatch.setattr(hub_server._Handler, "_cdn", noting)
    api.hf_hub_download("rdrec/m", "m.safetensors", cache_dir=tmp_path)
    assert seen == [None]
