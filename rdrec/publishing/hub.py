"""One push: a set of files becomes the tip of a branch in one commit, or in none where nothing changed.

    hub = Hub()                                        # the token of `hf auth login` or HF_TOKEN
    state = hub.inspect(Target("rdrec/rdrec-beauty"), files)
    commit = hub.push(state)

Everything that can be refused is refused by `inspect`, before anything is written. Large files are sent before the
commit that names them, so a push that is cut leaves the branch as it was; the next one sends only what is missing.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    RepoCard,
    SpaceCard,
    constants,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_token, validate_repo_id

from rdrec.errors import UserError


try:
    from httpx2 import TransportError
except ImportError:  # huggingface_hub 1.x
    from httpx import TransportError


MANIFEST = "release.json"
# What a repo may hold that was made by hand on the website, and is still ours to fill.
FOUND_IN_NEW_REPOS = {".gitattributes", "README.md", "LICENSE", ".gitignore"}
CARDS = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}
RETRY_WAITS = (1.0, 4.0, 16.0)  # seconds before each further try
TRANSIENT = {408, 412, 425, 429, 500, 502, 503, 504}  # 412: the branch moved on since it was read

Files = dict[str, Path | bytes]


class PublishError(UserError):
    """A push that cannot be made; the message is one line for the user."""


@dataclass(frozen=True)
class Target:
    """Where files go: repo, its kind ("model", "dataset" or "space"), branch, and what it shall be."""

    repo_id: str
    kind: str = "model"
    private: bool = False
    revision: str = "main"
    tag: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.repo_id}"


@dataclass
class State:
    """A target, the files it shall hold, and what `inspect` found there (`head` None: no such branch yet)."""

    target: Target
    files: Files
    exists: bool = False
    head: str | None = None
    add: list[str] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)
    tagged: str | None = None

    @property
    def changed(self) -> bool:
        return bool(self.add or self.delete)

    def size(self, path: str) -> int:
        content = self.files[path]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def with_manifest(files: Files) -> Files:
    """The files and `release.json`, which lists the SHA-256 of each: it marks a repo as made here and lets anyone check
    a download."""
    entries = {path: _digest(content, hashlib.sha256()) for path, content in sorted(files.items())}
    made = json.dumps({"format": 1, "sha256": entries}, indent=2, ensure_ascii=False) + "\n"
    return {**files, MANIFEST: made.encode()}


def _digest(content: Path | bytes, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with open(content, "rb") as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def sha256_of(content: Path | bytes) -> str:
    """Hex SHA-256 of a file or of bytes."""
    return _digest(content, hashlib.sha256())


class Hub:
    """The Hub as the holder of one token sees it.

    Parameters
    ----------
    endpoint : str, optional
        Default: HF_ENDPOINT, else the public Hub.

    Raises
    ------
    PublishError
        Offline, no token, a token the Hub does not know, or one that may only read.
    """

    def __init__(self, endpoint: str | None = None):
        if constants.is_offline_mode():
            raise PublishError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it")
        self._token = get_token()
        if self._token is None:
            raise PublishError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN to one with write rights")
        self.api = HfApi(endpoint=endpoint, token=self._token)
        found = self._asked("whoami", lambda: self.api.whoami())
        self.namespaces = [found["name"], *(org["name"] for org in found.get("orgs", []))]
        role = found.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read":
            raise PublishError(
                f"the Hugging Face token of {found['name']} may only read: make one with write rights at "
                f"{self.api.endpoint}/settings/tokens"
            )

    def inspect(self, target: Target, files: Files) -> State:
        """Compare a target with the files it shall hold; nothing is written.

        Raises
        ------
        PublishError
            For a name that is no repo id, a repo of others or one that this tool did not make, a public repo where a
            private one is asked for, a tag that names another commit, or a card that the Hub does not accept.
        """
        self.check_target(target.repo_id)
        self._check_card(target, files)
        state = State(target, with_manifest(files))
        self._read(state)
        return state

    def check_target(self, repo_id: str) -> None:
        """Raise PublishError for a name that is no repo id, or one in the namespace of others."""
        check_repo_id(repo_id)
        namespace = repo_id.split("/")[0]
        if namespace not in self.namespaces:
            raise PublishError(
                f"{repo_id}: {namespace} is not yours: your token writes to {', '.join(self.namespaces)}; give another "
                "namespace"
            )

    def names(self, target: Target) -> set[str]:
        """Paths of the files at a target's revision.

        Raises
        ------
        PublishError
            No such repo or revision, or none that the token may read.
        """
        try:
            info = self._asked(
                str(target),
                lambda: self.api.repo_info(target.repo_id, repo_type=target.kind, revision=target.revision),
                RepositoryNotFoundError,
                RevisionNotFoundError,
            )
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise PublishError(
                f"{target}: no such repo on the Hub (revision {target.revision}), or none that your token may read: "
                "push it first, or check its name"
            ) from error
        return {file.rfilename for file in info.siblings}

    def _check_card(self, target: Target, files: Files) -> None:
        try:
            self._asked(str(target), lambda: _card(target, files).validate(repo_type=target.kind))
        except PublishError:
            raise
        except (ValueError, yaml.YAMLError) as error:
            raise PublishError(f"{target}: the Hub does not accept its card: {_one_line(error)}") from error

    def _read(self, state: State) -> None:
        """Fill in what is there now and what differs."""
        target, api = state.target, self.api
        common = {"repo_id": target.repo_id, "repo_type": target.kind}
        state.exists, state.head, state.tagged = True, None, None
        remote: dict[str, RepoFile] = {}
        try:
            info = self._asked(str(target), lambda: api.repo_info(**common), RepositoryNotFoundError)
        except RepositoryNotFoundError:
            state.exists = False
        else:
            if target.private and not info.private:
                raise PublishError(
                    f"{target} exists and is public: make it private in its settings, or leave out --private"
                )
            try:
                head = self._asked(
                    str(target),
                    lambda: api.repo_info(**common, revision=target.revision).sha,
                    RevisionNotFoundError,
                )
            except RevisionNotFoundError:
                # A new branch starts from main.
                head = info.sha
            else:
                state.head = head
            remote = self._asked(str(target), lambda: self._tree(common, head))
            if MANIFEST not in remote and set(remote) - FOUND_IN_NEW_REPOS:
                raise PublishError(
                    f"{target} exists and holds something else (it has no {MANIFEST}): give another name, or delete "
                    "it on the Hub"
                )
            if target.tag is not None:
                refs = self._asked(str(target), lambda: api.list_repo_refs(**common))
                state.tagged = next((ref.target_commit for ref in refs.tags if ref.name == target.tag), None)
        state.add = [path for path, content in state.files.items() if not _same(content, remote.get(path))]
        # Only what an earlier push brought is taken away again; what else lies there belongs to its owner.
        pushed = self._pushed_before(common, head) if MANIFEST in remote else ()
        state.delete = sorted((set(pushed) & set(remote)) - set(state.files))
        if state.tagged is not None and (state.changed or state.tagged != state.head):
            raise PublishError(
                f"{target}: tag {target.tag} stands for commit {state.tagged[:8]}, which holds other files: give a "
                "tag of another name"
            )

    def _tree(self, common: dict, commit: str) -> dict[str, RepoFile]:
        rows = self.api.list_repo_tree(**common, revision=commit, recursive=True)
        return {row.path: row for row in rows if isinstance(row, RepoFile)}

    def _pushed_before(self, common: dict, commit: str) -> Iterable[str]:
        path = self._asked(
            common["repo_id"], lambda: self.api.hf_hub_download(**common, filename=MANIFEST, revision=commit)
        )
        try:
            return json.loads(Path(path).read_text(encoding="utf-8"))["sha256"].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PublishError(
                f"{common['repo_id']}: its {MANIFEST} is damaged: delete that file on the Hub"
            ) from error

    def push(self, state: State) -> str:
        """Make the target hold the files, in one commit; the id of the commit that does.

        A connection that breaks is tried again, each time from what is there by then, so an answer that was lost
        costs no second commit.

        Raises
        ------
        PublishError
            For a refusal, or a connection that stays broken.
        """
        for wait in (*RETRY_WAITS, None):
            try:
                return self._push_once(state)
            except (TransportError, HfHubHTTPError, ConnectionError, RuntimeError) as error:
                error = _cause(error)
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
                if status is not None and status not in TRANSIENT:
                    raise self._explained(str(state.target), error) from None
                if wait is None:
                    raise PublishError(
                        f"{state.target}: the connection to {self.api.endpoint} broke ({self._reason(error)}): run the "
                        "same command again; files that arrived are not sent twice"
                    ) from None
                after = error.response.headers.get("Retry-After", "") if status is not None else ""
                time.sleep(min(float(after), 300.0) if after.isdigit() else wait)
                self._read(state)
        raise AssertionError("the last try returns or raises")

    def _push_once(self, state: State) -> str:
        target, api = state.target, self.api
        common = {"repo_id": target.repo_id, "repo_type": target.kind}
        if not state.exists:
            extra = {"space_sdk": _card(target, state.files).data.sdk or "static"} if target.kind == "space" else {}
            api.create_repo(**common, private=target.private, exist_ok=True, **extra)
        if state.head is None:
            if target.revision != "main":
                api.create_branch(**common, branch=target.revision, exist_ok=True)
            state.exists = True
            state.head = api.repo_info(**common, revision=target.revision).sha
        if state.changed:
            operations = [
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in state.files.items()
                if path in state.add
            ]
            operations += [CommitOperationDelete(path, is_folder=False) for path in state.delete]
            made = api.create_commit(
                **common,
                operations=operations,
                commit_message=f"Publish {len(state.add)} files"
                + (f", drop {len(state.delete)}" if state.delete else ""),
                revision=target.revision,
                parent_commit=state.head,
            )
            state.head, state.add, state.delete = made.oid, [], []
        if target.tag is not None and state.tagged is None:
            api.create_tag(**common, tag=target.tag, revision=state.head, exist_ok=True)
            state.tagged = state.head
        return state.head

    def _asked(self, what: str, ask, *expected: type[Exception]) -> Any:
        """The answer to a question, asked again where the connection breaks; what is not `expected` is one line."""
        for wait in (*RETRY_WAITS, None):
            try:
                return ask()
            except expected:
                raise
            except (HFValidationError, PublishError):
                raise
            except (TransportError, HfHubHTTPError, ConnectionError) as error:
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
                if status is not None and status not in TRANSIENT:
                    raise self._explained(what, error) from None
                if wait is None:
                    raise PublishError(
                        f"{what}: {self.api.endpoint} does not answer ({self._reason(error)}): try again later"
                    ) from None
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _explained(self, what: str, error: HfHubHTTPError) -> PublishError:
        status = error.response.status_code
        if what == "whoami" and status == 401:
            return PublishError(
                "the Hub does not know your Hugging Face token (401): run `hf auth login`, or set HF_TOKEN to another"
            )
        if status in (401, 403):
            return PublishError(
                f"{what}: your token may not write there ({status}): give it write rights at "
                f"{self.api.endpoint}/settings/tokens, or another --namespace"
            )
        return PublishError(f"{what}: the Hub refuses ({self._reason(error)})")

    def _reason(self, error: BaseException) -> str:
        """What went wrong, on one line and without the token, whatever the library put into its message."""
        return _one_line(error).replace(self._token, "***") or type(error).__name__


def _card(target: Target, files: Files) -> RepoCard:
    card = files["README.md"]
    return CARDS[target.kind](card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8"))


def check_repo_id(repo_id: str) -> None:
    """Raise PublishError for a name that the Hub takes for no repo."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no repo id: {_one_line(error)}") from error
    if repo_id.count("/") != 1:
        raise PublishError(f"{repo_id!r} is no repo id: give NAMESPACE/NAME")


def _same(content: Path | bytes, there: RepoFile | None) -> bool:
    if there is None:
        return False
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if size != there.size:
        return False
    if there.lfs is not None:
        return _digest(content, hashlib.sha256()) == there.lfs.sha256
    return _digest(content, hashlib.sha1(b"blob %d\0" % size)) == there.blob_id


def _cause(error: BaseException) -> BaseException:
    """The error of the connection under those of the threads that met it."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
