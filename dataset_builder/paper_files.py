"""Import of the reference release's own files: `sequential.txt` and, each optional, the rest of its data folder.

    tables = build_tables_from_reference("data/beauty", domain="beauty")
    tables = build_tables_from_reference("https://host/beauty", domain="beauty")    # the same files below a URL

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

`published` keeps the files' ids, text split and candidates. `clean` draws ids, split and candidates anew, and drops
rationale halves that are the explanation itself: the reference fills them in so where the teacher's answer did not
parse.
"""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rdrec.errors import DatasetError

from .assemble import PROTOCOLS, assemble
from .explanations import clean_text
from .files import describe, numbered_lines, open_text
from .ids import ITEM_ID_STREAM, USER_ID_STREAM, drawn_ids
from .interactions import LEAVE_ONE_OUT
from .item_texts import read_item_text
from .rationales import rationale
from .splits import TEST, TRAIN, VALIDATION
from .tables import Tables


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


def build_tables_from_reference(
    folder: str | Path,
    *,
    domain: str,
    protocol: str = "clean",
    seed: int = 0,
    num_negatives: int = 99,
    teacher: str = "Llama-2-7b-chat",
    prompt: str = "reference-release",
) -> Tables:
    """Build a dataset from a folder of the reference's files.

    Parameters
    ----------
    folder : path or URL
        Holds `sequential.txt[.gz]` and any of the other files; of a URL (http, https) they are downloaded first.
    domain, protocol, seed, num_negatives, teacher, prompt
        As in `build_tables`; `num_negatives` counts for the candidates drawn here.

    Returns
    -------
    Tables
        Without timestamps, and without rationale rows where the folder has no explanations.

    Raises
    ------
    DatasetError
        No `sequential.txt`, a malformed line (named by its number), or a server that does not answer.
    """
    if str(folder).startswith(("http://", "https://")):
        with TemporaryDirectory(prefix="rdrec-reference-") as work:
            download(str(folder), Path(work))
            return build_tables_from_reference(
                work,
                domain=domain,
                protocol=protocol,
                seed=seed,
                num_negatives=num_negatives,
                teacher=teacher,
                prompt=prompt,
            )
    if protocol not in PROTOCOLS:
        raise DatasetError(f"--protocol {protocol}: unknown; choose one of {', '.join(PROTOCOLS)}")
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder; name the folder that holds sequential.txt")
    sequences_path = _find(folder, "sequential.txt")
    if sequences_path is None:
        raise DatasetError(f"{folder}: no sequential.txt or sequential.txt.gz; it is the one file that must be there")
    skipped: Counter[str] = Counter()
    used = [sequences_path]
    file_users, sequences = _read_sequences(sequences_path)

    maps_path = _find(folder, "datamaps.json")
    raw_of_user: dict[int, str] = {}
    raw_of_item: dict[int, str] = {}
    if maps_path is not None:
        used.append(maps_path)
        raw_of_user, raw_of_item = _read_maps(maps_path)

    # Codes from 0 in order of the file's ids; `published` needs them to be those ids less one.
    lengths = np.array([len(items) for items in sequences])
    user_order = np.argsort(file_users)
    file_users, lengths = file_users[user_order], lengths[user_order]
    file_items = np.concatenate([sequences[i] for i in user_order])
    item_values, item_codes = np.unique(file_items, return_inverse=True)
    if protocol == "published":
        _need_dense(file_users, sequences_path, "user")
        _need_dense(item_values, sequences_path, "item")
    n_users, n_items = len(file_users), len(item_values)
    user_ids = drawn_ids(n_users, protocol, seed, USER_ID_STREAM)
    item_ids = drawn_ids(n_items, protocol, seed, ITEM_ID_STREAM)
    raw_users = _raw_ids(file_users, user_ids, raw_of_user, maps_path, "id2user")
    raw_items = _raw_ids(item_values, item_ids, raw_of_item, maps_path, "id2item")

    # Sequences end to end in order of the new user ids.
    starts = np.cumsum(lengths) - lengths
    user_at = np.argsort(user_ids)  # which code has id 1, 2, …
    new_lengths = lengths[user_at]
    new_starts = np.cumsum(new_lengths) - new_lengths
    positions = np.arange(len(file_items)) + np.repeat(starts[user_at] - new_starts, new_lengths)
    items = item_ids[item_codes[positions]]

    item_text_path = _find(folder, "item_text.txt")
    texts_of_items: dict[str, str] = {}
    if item_text_path is not None:
        used.append(item_text_path)
        texts_of_items = read_item_text(item_text_path)

    test_negatives = None
    negatives_path = _find(folder, "negative.txt")
    if negatives_path is not None and protocol == "published":
        used.append(negatives_path)
        test_negatives = _read_negatives(negatives_path, items, new_lengths, n_items)

    text_rows: list[dict[str, Any]] = []
    text_positions = np.zeros(0, dtype=np.int64)
    text_splits = np.zeros(0, dtype=np.int8)
    explanations_path = _find(folder, "explanation_rationale.json") or _find(folder, "explanation.json")
    if explanations_path is not None:
        used.append(explanations_path)
        user_codes = _codes(file_users, raw_of_user)
        item_codes_of = _codes(item_values, raw_of_item)
        # One integer for each user-item pair, to find the position of an explanation's interaction.
        pair_at = {
            pair: position
            for position, pair in enumerate(
                (np.repeat(np.arange(n_users), new_lengths) * (n_items + 1) + items).tolist()
            )
        }
        found: dict[int, tuple[int, dict[str, Any]]] = {}
        has_splits = False
        for place, split, row in _read_explanations(explanations_path):
            user_code, item_code = (
                codes.get(str(row.get(key))) for codes, key in ((user_codes, "user"), (item_codes_of, "item"))
            )
            if user_code is None or item_code is None:
                skipped["explanation_of_unknown_user_or_item"] += 1
                continue
            position = pair_at.get(int((user_ids[user_code] - 1) * (n_items + 1) + item_ids[item_code]))
            if position is None:
                skipped["explanation_without_interaction"] += 1
            elif position in found:
                skipped["duplicate_explanation"] += 1
            else:
                text_row = _text_row(row, place, protocol, teacher, prompt, skipped)
                if text_row is None:
                    skipped["without_text"] += 1
                    continue
                has_splits = has_splits or split is not None
                found[position] = (TRAIN if split is None else split, text_row)
        text_positions = np.array(sorted(found), dtype=np.int64)
        text_rows = [found[position][1] for position in text_positions.tolist()]
        keep_splits = protocol == "published" and has_splits
        text_splits = (
            np.array([found[position][0] for position in text_positions.tolist()], dtype=np.int8)
            if keep_splits
            else None
        )

    return assemble(
        items,
        new_lengths,
        None,
        raw_users,
        raw_items,
        [texts_of_items.get(raw) for raw in raw_items],
        text_rows,
        text_positions,
        text_splits=text_splits,
        test_negatives=test_negatives,
        domain=domain,
        protocol=protocol,
        seed=seed,
        min_core=None,  # the release's sequences are filtered already; nothing is dropped here
        num_negatives=num_negatives,
        source={"kind": "reference", "files": [describe(path) for path in used]},
        skipped=skipped,
    )


def download(url: str, folder: Path) -> None:
    """Download what there is of the reference's files below a URL: of each name the plain file, else the packed one.

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


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _integer_lines(path: Path) -> Iterator[tuple[str, list[int]]]:
    for place, line in numbered_lines(path):
        try:
            numbers = [int(word) for word in line.split()]
        except ValueError:
            raise DatasetError(f"{place}: not all integers; a line is `user item item …`") from None
        if min(numbers) < 1:
            raise DatasetError(f"{place}: id {min(numbers)}; ids start at 1")
        yield place, numbers


def _read_sequences(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
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


def _need_dense(values: np.ndarray, path: Path, kind: str) -> None:
    gaps = np.flatnonzero(values != np.arange(1, len(values) + 1))
    if len(gaps):
        raise DatasetError(
            f"{path}: no {kind} {gaps[0] + 1}, but `published` keeps the file's ids and needs 1 to {values[-1]} "
            "without gaps; use --protocol clean"
        )


def _read_json(path: Path) -> Any:
    with open_text(path) as stream:
        try:
            return json.load(stream)
        except ValueError as error:
            raise DatasetError(f"{path}: not JSON ({error}); get the file again") from error


def _read_maps(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    maps = _read_json(path)
    try:
        users, items = ({int(k): str(v) for k, v in maps[name].items()} for name in ("id2user", "id2item"))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DatasetError(
            f'{path}: needs {{"id2user": {{"1": raw id, …}}, "id2item": {{…}}}}; see dataset_builder/reference.py'
        ) from None
    return users, items


def _raw_ids(values: np.ndarray, ids: np.ndarray, raw: Mapping[int, str], path: Path | None, key: str) -> list[str]:
    """Raw id of each value, in order of the new ids."""
    in_order = values[np.argsort(ids)].tolist()
    if path is None:
        return [str(value) for value in in_order]
    try:
        return [raw[value] for value in in_order]
    except KeyError as error:
        raise DatasetError(
            f"{path}: {key} has no {error.args[0]}, which sequential.txt uses; get the file again"
        ) from None


def _codes(values: np.ndarray, raw: Mapping[int, str]) -> dict[str, int]:
    """Code of each file id and each raw id, both as strings; should the two clash, the file id counts."""
    file_ids = {str(value): code for code, value in enumerate(values.tolist())}
    return {raw[value]: code for code, value in enumerate(values.tolist()) if value in raw} | file_ids


def _read_negatives(path: Path, items: np.ndarray, lengths: np.ndarray, n_items: int) -> np.ndarray:
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


def _read_explanations(path: Path) -> Iterator[tuple[str, int | None, Mapping[str, Any]]]:
    data = _read_json(path)
    if isinstance(data, list):
        data = {None: data}
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: neither a list of rows nor splits of rows; see dataset_builder/reference.py")
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


def _text_row(
    row: Mapping[str, Any], place: str, protocol: str, teacher: str, prompt: str, skipped: Counter[str]
) -> dict[str, Any] | None:
    feature, text = row.get("feature"), row.get("explanation", row.get("text"))
    template = row.get("template")
    if text is None and isinstance(template, list) and len(template) >= 3:
        feature, text = feature or template[0], template[2]
    if text is None:
        raise DatasetError(f"{place}: no explanation; give it as `explanation`, `text` or `template`")
    text = clean_text(str(text))
    if not text:
        return None
    made = {"explanation": text, "feature": str(feature or "")}
    halves = {
        "user_preference": row.get("user_preference"),
        "item_attributes": row.get("item_attribution", row.get("item_attributes")),
    }
    if protocol == "clean":
        copies = [name for name, half in halves.items() if isinstance(half, str) and clean_text(half) == text]
        skipped["rationale_half_is_the_explanation"] += len(copies)
        halves |= dict.fromkeys(copies)
    return made | (rationale({**row, **halves}, teacher, prompt) or {})
