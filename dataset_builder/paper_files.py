"""The files of the paper's release: which there are, how they are downloaded, and how each is read.

    with paper_files("https://host/beauty") as files:       # or a folder that holds them
        users, sequences = read_sequences(files["sequential.txt"])

| file (plain or .gz) | a line or what it holds |
| --- | --- |
| sequential.txt | `user item item …`, oldest first; integer ids from 1 |
| negative.txt | `user negative negative …`: the test candidates under `published` |
| datamaps.json | `{"id2user": {"1": "A1YJ…"}, "id2item": {"1": "B004…"}}`; without it the raw id is the integer |
| explanation_rationale.json, else explanation.json | `{"train": [row, …], "val": […], "test": […]}` or one list |
| item_text.txt | `ASIN a few words`, joined on the raw id |

A row of explanations is `{"user", "item", "explanation" (or "text"), "feature", "user_preference", "item_attribution"
(or "item_attributes")}`; user and item are integers of sequential.txt or raw ids of datamaps.json, and instead of the
sentence and its feature a row may have `"template": [feature, adjective, sentence, …]`.
"""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rdrec.errors import DatasetError

from .files import numbered_lines, open_text
from .interactions import LEAVE_ONE_OUT
from .splits import TEST, TRAIN, VALIDATION


FILES = (
    "sequential.txt",
    "negative.txt",
    "datamaps.json",
    "explanation_rationale.json",
    "explanation.json",
    "item_text.txt",
)
DOWNLOAD_TIMEOUT, DOWNLOAD_WAITS = 60, (1.0, 4.0)  # seconds; a wait before each further try
SPLIT_NAMES = {"train": TRAIN, "val": VALIDATION, "valid": VALIDATION, "validation": VALIDATION, "test": TEST}


@contextmanager
def paper_files(source: str | Path) -> Iterator[dict[str, Path]]:
    """Give the files of a folder, or of a URL (http, https), by their names in `FILES`, whether packed or plain.

    Raises
    ------
    DatasetError
        No such folder, no `sequential.txt` in it, or a server that does not answer or breaks off.
    """
    if str(source).startswith(("http://", "https://")):
        with TemporaryDirectory(prefix="rdrec-paper-files-") as work:
            download(str(source), Path(work))
            yield _files_of(Path(work))
    else:
        yield _files_of(Path(source))


def _files_of(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; name the folder that holds sequential.txt")
    found = {}
    for name in FILES:
        path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
        if path is not None:
            found[name] = path
    if "sequential.txt" not in found:
        raise DatasetError(f"{folder}: no sequential.txt or sequential.txt.gz; it is the one file that must be there")
    return found


def download(url: str, folder: Path) -> None:
    """Download what there is of the paper's files below a URL: of each name the plain file, else the packed one.

    Raises
    ------
    DatasetError
        No `sequential.txt` there, or a server that does not answer or breaks off.
    """
    found = []
    for name in FILES:
        for packed in (name, f"{name}.gz"):
            if _download_file(f"{url.rstrip('/')}/{packed}", folder / packed):
                found.append(packed)
                break
    if not any(name.startswith(FILES[0]) for name in found):
        raise DatasetError(f"{url}: no {FILES[0]} or {FILES[0]}.gz below it; check the URL")


def _download_file(url: str, target: Path) -> bool:
    """Download one file whole, trying again where the connection breaks; False where the server has none."""
    for wait in (*DOWNLOAD_WAITS, None):
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT) as answer, open(target, "wb") as stream:
                shutil.copyfileobj(answer, stream)
                size = answer.headers.get("Content-Length")
                if size is not None and int(size) != stream.tell():
                    raise ConnectionError(f"{stream.tell()} of {size} bytes came")
            return True
        except (OSError, http.client.HTTPException) as error:
            target.unlink(missing_ok=True)
            if isinstance(error, urllib.error.HTTPError) and error.code in (404, 410):
                return False
            if wait is None:
                raise DatasetError(f"{url}: not downloaded ({error}); try again later") from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _integer_lines(path: Path) -> Iterator[tuple[str, list[int]]]:
    for place, line in numbered_lines(path):
        try:
            numbers = [int(word) for word in line.split()]
        except ValueError:
            raise DatasetError(f"{place}: not all integers; a line is `user item item …`") from None
        if min(numbers) < 1:
            raise DatasetError(f"{place}: id {min(numbers)}; ids start at 1")
        if max(numbers) >= 2**63:
            raise DatasetError(f"{place}: an id of {len(str(max(numbers)))} digits; ids are below 2^63")
        yield place, numbers


def read_sequences(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The users' ids, int64 [n_users], and their items, int64 [n] each, in the order of the lines."""
    users: dict[int, None] = {}
    sequences: list[np.ndarray] = []
    for place, (user, *items) in _integer_lines(path):
        if user in users:
            raise DatasetError(f"{place}: user {user} has a line already; join the two")
        if len(items) < LEAVE_ONE_OUT:
            raise DatasetError(
                f"{place}: user {user} has {len(items)} items, leave-one-out needs {LEAVE_ONE_OUT}; delete it"
            )
        if len(set(items)) < len(items):
            raise DatasetError(f"{place}: user {user} has an item twice; keep the first")
        users[user] = None
        sequences.append(np.array(items, dtype=np.int64))
    if not sequences:
        raise DatasetError(f"{path}: empty; a line is `user item item …`")
    return np.array(list(users), dtype=np.int64), sequences


def _read_json(path: Path) -> Any:
    with open_text(path) as stream:
        try:
            return json.load(stream)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: not JSON ({error}); get the file again") from error


def read_maps(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Raw ids of users and of items, by the integers of sequential.txt."""
    maps = _read_json(path)
    try:
        users, items = ({int(k): str(v) for k, v in maps[name].items()} for name in ("id2user", "id2item"))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DatasetError(
            f'{path}: needs {{"id2user": {{"1": raw id, …}}, "id2item": {{…}}}}; see dataset_builder/paper_files.py'
        ) from None
    return users, items


def read_negatives(path: Path, items: np.ndarray, lengths: np.ndarray, n_items: int) -> np.ndarray:
    """The test candidates of each user: int64 [n_users, k].

    `items` and `lengths` are those of `Interactions`, whose ids are the file's.
    """
    n_users = len(lengths)
    negatives: list[list[int] | None] = [None] * n_users
    width = None
    ends = np.cumsum(lengths)
    for place, (user, *drawn) in _integer_lines(path):
        if user > n_users:
            raise DatasetError(f"{place}: user {user} is not in sequential.txt; delete the line")
        if negatives[user - 1] is not None:
            raise DatasetError(f"{place}: user {user} has a line already; delete one")
        width = len(drawn) if width is None else width
        if len(drawn) != width or not drawn:
            raise DatasetError(f"{place}: {len(drawn)} negatives where the first line has {width}; get the file again")
        if max(drawn) > n_items:
            raise DatasetError(f"{place}: item {max(drawn)} is not in sequential.txt; get the file again")
        own = set(items[ends[user - 1] - lengths[user - 1] : ends[user - 1]].tolist())
        if own & set(drawn):
            raise DatasetError(f"{place}: user {user} bought item {min(own & set(drawn))}, so it is no negative")
        negatives[user - 1] = drawn
    missing = next((i + 1 for i, drawn in enumerate(negatives) if drawn is None), None)
    if missing is not None:
        raise DatasetError(
            f"{path}: no line for user {missing}; get the file again, or remove it to draw negatives anew"
        )
    return np.array(negatives, dtype=np.int64)


def read_explanations(path: Path) -> Iterator[tuple[str, int | None, Mapping[str, Any]]]:
    """Yield each row with the words that name its place, and its split where the file has splits."""
    data = _read_json(path)
    if isinstance(data, list):
        data = {None: data}
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: neither a list of rows nor splits of rows; see dataset_builder/paper_files.py")
    for name, rows in data.items():
        if name is not None and name not in SPLIT_NAMES:
            raise DatasetError(f"{path}: split {name!r} is unknown; name it one of {', '.join(SPLIT_NAMES)}")
        if not isinstance(rows, list):
            raise DatasetError(f"{path}: split {name!r} is not a list of rows; get the file again")
        for number, row in enumerate(rows):
            place = f"{path} {'' if name is None else name + ' '}row {number}"
            if not isinstance(row, dict) or "user" not in row or "item" not in row:
                raise DatasetError(f"{place}: not an object with user and item; mend or delete the row")
            yield place, None if name is None else SPLIT_NAMES[name], row
