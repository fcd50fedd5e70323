"""Reader of distilled rationales, as JSON lines or Parquet: one row a review.

Columns: `user`, `item` and `text_hash` (the review that the rationale is of, see `review_key`), `review_row` (data row
of the reviews file, from 0; in place of the three in older files), `user_preference`, `item_attributes` (one of them
may be empty), and optional `teacher`, `prompt`, `flags` (of the whole answer), and for each half H `H_grounding` (its
score) and `H_choice` (what the audit's policy did). A half that was cut at the teacher's token limit is left out.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rdrec.errors import DatasetError

from .fields import id_of, number_of, text_of
from .files import existing_file, numbered_lines
from .reviews import Review


# The two halves of a rationale: columns of the tables, and names of the tasks that learn to write them.
RATIONALE_TASKS = ("user_preference", "item_attributes")
KEY_COLUMNS = ("user", "item", "text_hash")
DISTILL_INFO = "distill_info.json"  # what distill.py writes beside its rationales
CUT_FLAGS = frozenset({"cut_off", "too_long"})

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]['\"\u2019\u201d)\]*_`\s]*$")


class ReviewKey(NamedTuple):
    """What tells a review from all others, wherever it stands in a file: raw user and item, and a hash of its text."""

    user: str
    item: str
    text_hash: str


# A review is known by its key, or, in files that lack it, by its row of the reviews file.
Identity = ReviewKey | int


def review_key(review: Review) -> ReviewKey:
    """The review's key. The hash is 16 hex digits of the SHA-256 of its text, whitespace runs as one blank."""
    text = " ".join(review.text.split())
    return ReviewKey(review.user, review.item, hashlib.sha256(text.encode()).hexdigest()[:16])


def identity_in(found: Mapping[Identity, Any], review: Review) -> Identity | None:
    """Under which identity `found` holds something of the review, or None."""
    key = review_key(review)
    return key if key in found else review.row if review.row in found else None


def ends_as_sentence(half: str) -> bool:
    """Whether a half has the end of a sentence; one without it was cut."""
    return bool(_SENTENCE_END.search(half[-40:]))


def rationale(row: Mapping[str, Any], teacher: str, prompt: str) -> dict[str, Any] | None:
    """The rationale columns of the dataset from one raw row; None when both halves are empty.

    `teacher` and `prompt` are used where the row has none of its own. A half's whitespace runs become one blank.
    """
    halves = {name: _sentence(row.get(name)) for name in RATIONALE_TASKS}
    if not any(halves.values()):
        return None
    provenance = {"teacher": row.get("teacher") or teacher, "prompt": row.get("prompt") or prompt}
    for name in halves:
        choice = row.get(f"{name}_choice")
        provenance[f"{name}_grounding"] = _score(row.get(f"{name}_grounding"))
        provenance[f"{name}_choice"] = choice if isinstance(choice, str) else None
    return {**halves, "provenance": provenance}


def read_rationales(
    path: str | Path, *, teacher: str, prompt: str, skipped: Counter[str]
) -> dict[Identity, dict[str, Any]]:
    """Read a file of rationales.

    Counts `duplicate_rationale` (a review's first row stays), `half_cut_off` (a half that ends in the middle of a
    sentence, of an answer that was flagged as cut) and `empty_rationale` (both halves empty) in `skipped`, and notes
    `rationale_of_one_half`.

    Returns
    -------
    dict of ReviewKey or int to dict
        By the review's key, or by its row where the file has no key: `review_row` (int or None), `user_preference`,
        `item_attributes` (str or None), `provenance` (dict).

    Raises
    ------
    DatasetError
        No such file, no such column, a row that is no JSON object, or a `review_row` that is no whole number from 0.
    """
    found: dict[Identity, dict[str, Any]] = {}
    with open(existing_file(path), "rb") as probe:
        is_parquet = probe.read(4) == b"PAR1"
    for place, row in _parquet_rows(path) if is_parquet else _json_rows(path):
        identity = _identity(place, row)
        if identity in found:
            skipped["duplicate_rationale"] += 1
            continue
        cut = _cut_halves(row)
        skipped.update({"half_cut_off": len(cut)} if cut else {})
        made = rationale({**row, **dict.fromkeys(cut)}, teacher, prompt)
        if made is None:
            skipped["empty_rationale"] += 1
            continue
        if not (made["user_preference"] and made["item_attributes"]):
            skipped["rationale_of_one_half"] += 1
        found[identity] = {"review_row": row.get("review_row"), **made}
    return found


def reviews_distilled(path: str | Path) -> int | None:
    """How many reviews the file that distill.py was given had, by its record beside the rationales; None if unknown."""
    try:
        info = json.loads(Path(path).with_name(DISTILL_INFO).read_text(encoding="utf-8"))
        return None if info["settings"]["max_reviews"] is not None else int(info["counts"]["reviews"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _identity(place: str, row: Mapping[str, Any]) -> Identity:
    key = tuple(row.get(column) for column in KEY_COLUMNS)
    has_key = all(part is not None for part in key)
    number = row.get("review_row")
    is_row = isinstance(number, int) and not isinstance(number, bool) and number >= 0
    if not is_row and not (has_key and number is None):
        raise DatasetError(
            f"{place}: review_row {number!r} is no whole number from 0; it counts the reviews file's rows"
        )
    if not has_key:
        return number
    try:
        return ReviewKey(id_of(key[0]), id_of(key[1]), str(key[2]))
    except DatasetError as error:
        raise DatasetError(f"{place}: {error}") from error


def _missing_column(columns: Collection[str]) -> str | None:
    needed = RATIONALE_TASKS if set(KEY_COLUMNS) <= set(columns) else ("review_row", *RATIONALE_TASKS)
    return next((column for column in needed if column not in columns), None)


_NEEDED = f"review_row (or {', '.join(KEY_COLUMNS)}), {', '.join(RATIONALE_TASKS)}"


def _cut_halves(row: Mapping[str, Any]) -> list[str]:
    """Halves that were cut. The policy's own choices are whole: the flags speak of the first answer."""
    flags = row.get("flags")
    if not isinstance(flags, list) or CUT_FLAGS.isdisjoint(flag for flag in flags if isinstance(flag, str)):
        return []
    of_teacher = [name for name in RATIONALE_TASKS if row.get(f"{name}_choice") in (None, "kept")]
    return [name for name in of_teacher if (half := _sentence(row.get(name))) and not ends_as_sentence(half)]


def _json_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{place}: not JSON ({error}); mend or delete the line") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{place}: not a JSON object; mend or delete the line")
        if column := _missing_column(row):
            raise DatasetError(f"{place}: no {column!r}; each line needs {_NEEDED}")
        yield place, row


def _parquet_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: not a readable Parquet file; write it again") from error
    if column := _missing_column(table.column_names):
        raise DatasetError(f"{path}: no column {column!r}; it needs {_NEEDED}")
    for number, row in enumerate(table.to_pylist()):
        yield f"{path} row {number}", row


def _sentence(value: Any) -> str | None:
    # A small teacher now and then answers with punctuation alone; that is an empty half.
    if not isinstance(value, str) or not any(character.isalnum() for character in value):
        return None
    return " ".join(text_of(value)[0].split())


def _score(value: Any) -> float | None:
    return None if isinstance(value, str | bool) else number_of(value)
