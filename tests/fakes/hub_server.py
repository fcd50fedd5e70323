"""A Hub on 127.0.0.1: what huggingface_hub, datasets, evaluate and transformers ask of one, over files in a folder.

    with HubServer(folder, {"hf_writer": Account("rdrec")}) as hub:
        HfApi(endpoint=hub.url, token="hf_writer").create_repo("rdrec/beauty")

Repos (models, datasets, Spaces), commits of several files at once, branches, tags, LFS uploads (whole or in parts),
downloads with ETags and ranges, private and gated repos. It serves plain LFS only: clients run with
HF_HUB_DISABLE_XET=1. What goes wrong on purpose: `faults`, `cut_after`, `stale_reads`.
"""

import base64
import binascii
import contextlib
import fnmatch
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


LFS_PATTERNS = ("*.safetensors", "*.parquet", "*.bin", "*.model", "*.npz", "*.npy", "*.arrow", "*.zip", "*.gz")
LFS_SIZE = 10 * 2**20
SDKS = ("gradio", "streamlit", "docker", "static")
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
GITATTRIBUTES = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LFS_PATTERNS).encode()
HEAD_COST = 256  # what a request's or an answer's head counts for in `cut_after`


@dataclass
class Account:
    """Who a token belongs to, and whether it may write."""

    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def owns(self, repo_id: str) -> bool:
        return repo_id.split("/")[0] in (self.name, *self.orgs)


@dataclass
class Fault:
    """What the next `times` requests whose "METHOD /path" `route` matches get in place of an answer.

    `status` with `headers`; or with `cut` the connection closes: "body" in the middle of the request's body, "reply"
    after the request was carried out, "half" in the middle of the answer.
    """

    route: str
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    cut: str | None = None


@dataclass
class Repo:
    """One repo. A commit holds its parent, its title and its files: path to git blob id, size and sha256 where LFS."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    granted: list[str] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict] = field(default_factory=dict)
    sdk: str | None = None  # of a Space

    def history(self, commit: str | None) -> list[str]:
        """Commit ids from `commit` back to the first."""
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit]["parent"]
        return found


class _Cut(Exception):
    """The connection ends here, without an answer."""


class _Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None):
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class HubServer:
    """The server; `url` is its endpoint, `requests` the "METHOD /path" of every request so far."""

    def __init__(self, folder: Path, tokens: dict[str, Account] | None = None, part_size: int | None = None):
        self.folder = Path(folder)
        self.tokens = tokens or {}
        self.part_size = part_size  # LFS uploads over this size go in parts of it
        self.page_size = 1000
        self.faults: list[Fault] = []
        self.stale_reads = 0  # so many reads of a branch see what it held one commit ago
        self.requests: list[str] = []
        self.spent = 0  # bytes of requests and answers so far, heads at a flat rate
        self._limit: int | None = None
        self.lock = threading.RLock()
        for name in ("blobs", "lfs", "parts", "repos"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.repos: dict[tuple[str, str], Repo] = {}
        for path in sorted((self.folder / "repos").glob("*.json")):
            repo = Repo(**json.loads(path.read_text(encoding="utf-8")))
            self.repos[repo.kind, repo.id] = repo
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        # Large files come from another host, as on the Hub: the client takes size and ETag from the redirect to it.
        self.cdn = f"http://localhost:{self._http.server_address[1]}/cdn"

    def __enter__(self) -> "HubServer":
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # --- for tests ---------------------------------------------------------------------------------------------------

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.repos[kind, repo_id]

    def files(self, repo_id: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Path to content of everything at the tip of a branch."""
        repo = self.repo(repo_id, kind)
        return {path: self.content(entry) for path, entry in repo.commits[repo.branches[revision]]["files"].items()}

    def titles(self, repo_id: str, kind: str = "model", revision: str = "main") -> list[str]:
        """Titles of a branch's commits, the first one first."""
        repo = self.repo(repo_id, kind)
        return [repo.commits[commit]["title"] for commit in reversed(repo.history(repo.branches[revision]))]

    def cut_after(self, size: int | None) -> None:
        """Drop every connection once so many more bytes have passed; None ends it."""
        with self.lock:
            self._limit = None if size is None else self.spent + size

    # --- storage -----------------------------------------------------------------------------------------------------

    def spend(self, size: int) -> None:
        with self.lock:
            self.spent += size
            if self._limit is not None and self.spent > self._limit:
                raise _Cut

    def save(self, repo: Repo) -> None:
        path = self.folder / "repos" / f"{repo.kind}--{repo.id.replace('/', '--')}.json"
        work = path.with_suffix(".writing")
        work.write_text(json.dumps(asdict(repo)), encoding="utf-8")
        work.replace(path)

    def content(self, entry: dict) -> bytes:
        folder, name = ("lfs", entry["lfs"]) if entry["lfs"] else ("blobs", entry["oid"])
        return (self.folder / folder / name).read_bytes()

    def add_blob(self, content: bytes) -> dict:
        oid = _git_sha(content)
        _put(self.folder / "blobs" / oid, content)
        return {"oid": oid, "size": len(content), "lfs": None}

    def commit(self, repo: Repo, branch: str, files: dict[str, dict], title: str, message: str = "") -> str:
        parent = repo.branches.get(branch)
        made = {
            "parent": parent,
            "title": title,
            "message": message,
            "files": dict(sorted(files.items())),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
        }
        oid = hashlib.sha1(json.dumps([made, time.time_ns()]).encode()).hexdigest()
        repo.commits[oid] = made
        repo.branches[branch] = oid
        self.save(repo)
        return oid


def _git_sha(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _put(path: Path, content: bytes) -> None:
    work = path.with_name(f"{path.name}.{threading.get_ident()}.writing")
    work.write_bytes(content)
    work.replace(path)


KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
ID = r"(?P<id>[\w.-]+(?:/[\w.-]+)?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{ID}"
ROUTES: list[tuple[str, re.Pattern, str]] = [
    (method, re.compile(pattern + r"\Z"), name)
    for method, pattern, name in (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/repos/create", "create"),
        ("GET", rf"{API}/revision/(?P<revision>.+)", "info"),
        ("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
        ("POST", rf"{API}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", rf"{API}/refs", "refs"),
        ("GET", rf"{API}/commits/(?P<revision>[^/]+)", "commits"),
        ("POST", rf"{API}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"{API}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"{API}/tag/(?P<revision>[^/]+)", "create_tag"),
        ("DELETE", rf"{API}/tag/(?P<revision>[^/]+)", "delete_tag"),
        ("POST", rf"{API}/branch/(?P<revision>[^/]+)", "create_branch"),
        ("GET", API, "info"),
        ("POST", rf"/(?:(?P<kind>datasets|spaces)/)?{ID}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "lfs_put"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete", "lfs_complete"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
        ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
        ("GET", rf"/(?:(?P<kind>datasets|spaces)/)?{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Heads and bodies are sent apart, and would wait for one another.
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        pass

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _answer(self) -> None:
        try:
            self.split = urlsplit(self.path)
            line = f"{self.command} {self.split.path}"
            self.hub.requests.append(line)
            fault = self._fault(line)
            self.hub.spend(HEAD_COST)
            try:
                if fault is not None and fault.cut == "body":
                    self.rfile.read(max(1, int(self.headers.get("Content-Length", 2)) // 2))
                    raise _Cut
                self.body = self._read_body()
                if fault is not None and fault.cut is None:
                    raise _Refusal(fault.status, "a fault on purpose", headers=fault.headers)
                made = self._dispatch()
                if fault is not None and fault.cut == "half":
                    status, content, headers = made
                    self._send(status, content[: len(content) // 2], headers | {"Content-Length": str(len(content))})
                if fault is not None:
                    raise _Cut
            except _Refusal as refusal:
                made = refusal.status, {"error": refusal.message}, refusal.headers
            self._send(*made)
        except (_Cut, ConnectionError, TimeoutError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _fault(self, line: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.route, line):
                    fault.times -= 1
                    return fault
        return None

    def _read_body(self) -> bytes:
        parts = []
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self._read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length", 0))
            while left:
                parts.append(self._read(min(left, 2**16)))
                left -= len(parts[-1])
        return b"".join(parts)

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise _Cut
        self.hub.spend(size)
        return content

    def _dispatch(self) -> tuple[int, Any, dict]:
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, name in ROUTES:
            found = pattern.match(self.split.path) if wanted == method else None
            if found:
                values = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                if values.get("kind") in KINDS or "id" in values:
                    values["kind"] = KINDS[values.get("kind", "models")]
                with self.hub.lock:
                    return getattr(self, f"_{name}")(**values)
        raise _Refusal(404, "Sorry, we can't find the page you are looking for.")

    def _send(self, status: int, made: Any, headers: dict[str, str]) -> None:
        content = made if isinstance(made, bytes) else json.dumps(made).encode()
        self.hub.spend(HEAD_COST)
        self.send_response(status)
        if "Content-Type" not in headers:
            self.send_header("Content-Type", "application/octet-stream" if made is content else "application/json")
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            for start in range(0, len(content), 2**16):
                self.hub.spend(len(content[start : start + 2**16]))
                self.wfile.write(content[start : start + 2**16])

    # --- who asks ----------------------------------------------------------------------------------------------------

    def _account(self) -> Account | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        account = self.hub.tokens.get(header.removeprefix("Bearer "))
        if account is None:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return account

    def _repo(self, kind: str, id: str, content: bool = False, write: bool = False) -> Repo:
        account = self._account()
        repo = self.hub.repos.get((kind, id))
        owner = account is not None and account.owns(id)
        if repo is None or (repo.private and not owner):
            raise _Refusal(401 if account is None else 404, "Repository not found", "RepoNotFound")
        if content and repo.gated and not owner and (account is None or account.name not in repo.granted):
            status = 401 if account is None else 403
            raise _Refusal(status, "Access to this repo is restricted", "GatedRepo")
        if write and (account is None or not owner or account.role != "write"):
            status = 401 if account is None else 403
            raise _Refusal(status, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str:
        commit = repo.branches.get(revision)
        if commit is not None and self.hub.stale_reads > 0:
            self.hub.stale_reads -= 1
            commit = repo.commits[commit]["parent"] or commit
        commit = commit or repo.tags.get(revision) or (revision if revision in repo.commits else None)
        if commit is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _json(self) -> dict:
        try:
            return json.loads(self.body)
        except ValueError:
            raise _Refusal(400, "not JSON") from None

    # --- answers: repos ----------------------------------------------------------------------------------------------

    def _whoami(self):
        account = self._account()
        if account is None:
            raise _Refusal(401, "Invalid username or password.")
        orgs = [{"name": name, "roleInOrg": "write", "type": "org"} for name in account.orgs]
        token = {"displayName": "loopback", "role": account.role}
        return 200, {"type": "user", "name": account.name, "orgs": orgs, "auth": {"accessToken": token}}, {}

    def _validate_yaml(self):
        content = self._json()["content"]
        found = re.match(r"\A\ufeff?---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        try:
            data = yaml.safe_load(found.group(1)) if found else {}
            problem = None if isinstance(data, dict) else "metadata must be a mapping"
        except yaml.YAMLError as error:
            data, problem = {}, str(error)
        problem = problem or _metadata_problem(data)
        if problem:
            return 400, {"errors": [{"message": problem}], "warnings": []}, {}
        return 200, {"errors": [], "warnings": [] if data else [{"message": "empty or missing yaml metadata"}]}, {}

    def _create(self):
        asked, account = self._json(), self._account()
        kind = asked.get("type", "model")
        if account is None:
            raise _Refusal(401, "Invalid username or password.")
        id = f"{asked.get('organization') or account.name}/{asked['name']}"
        if not account.owns(id) or account.role != "write":
            raise _Refusal(403, f"You don't have the rights to create a {kind} under this namespace")
        if (kind, id) in self.hub.repos:
            raise _Refusal(409, f"You already created this {kind} repo")
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise _Refusal(400, f"a Space needs an sdk, one of {', '.join(SDKS)}")
        private = asked.get("private") is True or asked.get("visibility") == "private"
        repo = self.hub.repos[kind, id] = Repo(kind, id, private=private, sdk=asked.get("sdk"))
        files = {".gitattributes": self.hub.add_blob(GITATTRIBUTES)}
        self.hub.commit(repo, "main", files, "initial commit")
        prefix = "" if kind == "model" else f"{kind}s/"
        return 200, {"url": f"{self.hub.url}/{prefix}{id}", "name": id}, {}

    def _info(self, kind, id, revision="main"):
        repo = self._repo(kind, id)
        commit = self._commit_of(repo, revision)
        made = repo.commits[commit]
        return (
            200,
            {
                "_id": id,
                "id": id,
                "modelId": id,
                "author": id.split("/")[0],
                "sha": commit,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": made["date"],
                "createdAt": made["date"],
                "siblings": [{"rfilename": path} for path in made["files"]],
                **({"sdk": repo.sdk} if kind == "space" else {}),
            },
            {},
        )

    def _refs(self, kind, id):
        repo = self._repo(kind, id)
        made = {
            name: [{"name": ref, "ref": f"refs/{place}/{ref}", "targetCommit": commit} for ref, commit in refs.items()]
            for name, place, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        return 200, {**made, "converts": [], "pullRequests": []}, {}

    def _commits(self, kind, id, revision):
        repo = self._repo(kind, id)
        rows = [
            {"id": oid, "title": made["title"], "message": made["message"], "date": made["date"], "authors": []}
            for oid in repo.history(self._commit_of(repo, revision))
            for made in [repo.commits[oid]]
        ]
        return 200, rows, {}

    def _create_branch(self, kind, id, revision):
        repo = self._repo(kind, id, write=True)
        if revision in repo.branches:
            raise _Refusal(409, f"Reference already exists: {revision}")
        start = (self._json() if self.body else {}).get("startingPoint") or "main"
        repo.branches[revision] = self._commit_of(repo, start)
        self.hub.save(repo)
        return 200, {}, {}

    def _create_tag(self, kind, id, revision):
        repo, tag = self._repo(kind, id, write=True), self._json()["tag"]
        if tag in repo.tags:
            raise _Refusal(409, f"Tag reference exists already: {tag}")
        repo.tags[tag] = self._commit_of(repo, revision)
        self.hub.save(repo)
        return 200, {}, {}

    def _delete_tag(self, kind, id, revision):
        repo = self._repo(kind, id, write=True)
        if repo.tags.pop(revision, None) is None:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        self.hub.save(repo)
        return 200, {}, {}

    # --- answers: files ----------------------------------------------------------------------------------------------

    def _tree(self, kind, id, revision, path=""):
        repo = self._repo(kind, id)
        files = repo.commits[self._commit_of(repo, revision)]["files"]
        query = parse_qs(self.split.query)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        prefix = f"{path.rstrip('/')}/" if path else ""
        if path and not any(name.startswith(prefix) for name in files):
            raise _Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        names: dict[str, bool] = {}
        for name in files:
            if name.startswith(prefix):
                steps = name[len(prefix) :].split("/")
                for depth in range(1, len(steps)):
                    if depth == 1 or recursive:
                        names[prefix + "/".join(steps[:depth])] = True
                if len(steps) == 1 or recursive:
                    names[name] = False
        rows = [_folder_row(name) if folder else _file_row(name, files[name]) for name, folder in sorted(names.items())]
        start, size = int(query.get("cursor", ["0"])[0]), self.hub.page_size
        headers = {}
        if start + size < len(rows):
            rest = "&".join(f"{key}={value[0]}" for key, value in query.items() if key != "cursor")
            link = f"{self.hub.url}{self.split.path}?{rest}{'&' if rest else ''}cursor={start + size}"
            headers["Link"] = f'<{link}>; rel="next"'
        return 200, rows[start : start + size], headers

    def _paths_info(self, kind, id, revision):
        repo = self._repo(kind, id)
        files = repo.commits[self._commit_of(repo, revision)]["files"]
        if "json" in self.headers.get("Content-Type", ""):
            paths = self._json()["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        rows = []
        for path in paths:
            if path in files:
                rows.append(_file_row(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                rows.append(_folder_row(path))
        return 200, rows, {}

    def _resolve(self, kind, id, revision, path):
        repo = self._repo(kind, id, content=True)
        commit = self._commit_of(repo, revision)
        entry = repo.commits[commit]["files"].get(path)
        headers = {"X-Repo-Commit": commit}
        if entry is None:
            raise _Refusal(404, "Entry not found", "EntryNotFound", headers)
        if entry["lfs"]:
            headers |= {
                "X-Linked-Size": str(entry["size"]),
                "X-Linked-ETag": f'"{entry["lfs"]}"',
                "Location": f"{self.hub.cdn}/{entry['lfs']}",
            }
            return 302, b"", headers
        return self._ranged(self.hub.content(entry), headers | {"ETag": f'"{entry["oid"]}"'})

    def _cdn(self, oid):
        path = self.hub.folder / "lfs" / oid
        if not path.is_file():
            raise _Refusal(404, "no such object")
        return self._ranged(path.read_bytes(), {"ETag": f'"{oid}"'})

    def _ranged(self, content: bytes, headers: dict):
        headers["Accept-Ranges"] = "bytes"
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return 200, content, headers
        first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
        if first > last:
            raise _Refusal(416, "range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1], headers

    # --- answers: uploads --------------------------------------------------------------------------------------------

    def _preupload(self, kind, id, revision):
        repo = self._repo(kind, id, write=True)
        files = repo.commits[self._commit_of(repo, revision)]["files"]
        rows = []
        for asked in self._json()["files"]:
            path = asked["path"]
            large = asked["size"] > LFS_SIZE or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)
            there = files.get(path)
            row = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            rows.append(row | ({"oid": there["lfs"] or there["oid"]} if there else {}))
        return 200, {"files": rows}, {}

    def _lfs_batch(self, kind, id):
        self._repo(kind, id, write=True)
        rows = []
        for asked in self._json()["objects"]:
            oid, size = asked["oid"], asked["size"]
            row: dict[str, Any] = {"oid": oid, "size": size}
            if not (self.hub.folder / "lfs" / oid).is_file():
                href, header = f"{self.hub.url}/lfs/{oid}", {}
                if self.hub.part_size and size > self.hub.part_size:
                    parts = -(-size // self.hub.part_size)
                    header = {str(n): f"{href}/{n}" for n in range(1, parts + 1)}
                    header["chunk_size"] = str(self.hub.part_size)
                    href += "/complete"
                verify = {"href": f"{self.hub.url}/lfs/{oid}/verify"}
                row["actions"] = {"upload": {"href": href, "header": header}, "verify": verify}
            rows.append(row)
        return 200, {"transfer": "basic", "objects": rows}, {"Content-Type": "application/vnd.git-lfs+json"}

    def _lfs_put(self, oid, part=None):
        if part is None:
            self._store(oid, self.body)
        else:
            _put(self.hub.folder / "parts" / f"{oid}-{int(part)}", self.body)
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def _lfs_complete(self, oid):
        numbers = [part["partNumber"] for part in self._json()["parts"]]
        paths = [self.hub.folder / "parts" / f"{oid}-{number}" for number in numbers]
        if not all(path.is_file() for path in paths):
            raise _Refusal(400, "a part is missing")
        self._store(oid, b"".join(path.read_bytes() for path in paths))
        for path in paths:
            path.unlink()
        return 200, {}, {}

    def _store(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refusal(400, "the content does not have this hash")
        _put(self.hub.folder / "lfs" / oid, content)

    def _lfs_verify(self, oid):
        path = self.hub.folder / "lfs" / oid
        if not path.is_file() or path.stat().st_size != self._json()["size"]:
            raise _Refusal(404, "no such object")
        return 200, {}, {}

    def _commit(self, kind, id, revision):
        repo = self._repo(kind, id, write=True)
        if revision not in repo.branches:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        head = repo.branches[revision]
        lines = [json.loads(line) for line in self.body.splitlines() if line]
        header = next((line["value"] for line in lines if line["key"] == "header"), None)
        if header is None or not header.get("summary"):
            raise _Refusal(400, "a commit needs a header with a summary")
        if header.get("parentCommit") not in (None, head):
            raise _Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.commits[head]["files"])
        apply: dict[str, Callable[[dict], None]] = {
            "header": lambda value: None,
            "file": lambda value: files.__setitem__(value["path"], self._regular(value)),
            "lfsFile": lambda value: files.__setitem__(value["path"], self._large(value)),
            "deletedFile": lambda value: self._delete(files, value["path"]),
        }
        for line in lines:
            if line["key"] not in apply:
                raise _Refusal(400, f"unknown operation {line['key']}")
            apply[line["key"]](line["value"])
        oid = self.hub.commit(repo, revision, files, header["summary"], header.get("description", ""))
        return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}"}, {}

    def _regular(self, value: dict) -> dict:
        try:
            return self.hub.add_blob(base64.b64decode(value["content"], validate=True))
        except binascii.Error:
            raise _Refusal(400, "content is not base64") from None

    def _large(self, value: dict) -> dict:
        path = self.hub.folder / "lfs" / value["oid"]
        if not path.is_file():
            raise _Refusal(400, f"LFS object {value['oid']} was not uploaded")
        pointer = _pointer(value["oid"], path.stat().st_size)
        return {"oid": _git_sha(pointer), "size": path.stat().st_size, "lfs": value["oid"]}

    def _delete(self, files: dict, path: str) -> None:
        if files.pop(path, None) is None:
            raise _Refusal(404, "A file with this name doesn't exist", "EntryNotFound")


def _pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _file_row(path: str, entry: dict) -> dict:
    row = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    if entry["lfs"]:
        pointer_size = len(_pointer(entry["lfs"], entry["size"]))
        row["lfs"] = {"oid": entry["lfs"], "size": entry["size"], "pointerSize": pointer_size}
    return row


def _folder_row(path: str) -> dict:
    return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}


def _metadata_problem(data: dict) -> str | None:
    """What the Hub refuses in a card's metadata, for the keys that our cards use."""
    one_string = ("license", "pipeline_tag", "pretty_name", "library_name")
    for key in (*one_string, "title", "sdk_version", "python_version", "app_file"):
        if key in data and not isinstance(data[key], str):
            return f'"{key}" must be a string'
    for key in ("tags", "language", "models", "datasets"):
        if not all(isinstance(value, str) for value in data.get(key) or []):
            return f'"{key}" must be strings'
    for key, known in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
        if key in data and data[key] not in known:
            return f'"{key}" must be one of [{", ".join(known)}]'
    if len(data.get("short_description", "")) > 60:
        return '"short_description" length must be less than or equal to 60 characters long'
    for entry in data.get("configs") or []:
        if not isinstance(entry, dict) or not isinstance(entry.get("config_name"), str):
            return '"configs" entries need a config_name'
    for model in data.get("model-index") or []:
        for result in model.get("results", [None]):
            if not isinstance(result, dict) or not {"task", "dataset", "metrics"} <= set(result):
                return '"model-index" results need task, dataset and metrics'
            if not all({"type", "value"} <= set(metric) for metric in result["metrics"]):
                return '"model-index" metrics need a type and a value'
    return None
