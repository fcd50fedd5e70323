"""Reader of distilled rationales, as JSON lines or Parquet: one row a review, joined on `review_row`.

Columns: `review_row` (data row of the reviews file, from 0), `user_preference`, `item_attributes` (one of them may be
empty), and optional `teacher`, `prompt`, `flags` (of the whole answer), and for each half H `H_grounding` (its score)
and `H_choice` (what the audit's policy did). A half that was cut at the teacher's token limit is left out.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdrec.errors import DatasetError

from .fields import text_of
from .files import existing_file, numbered_lines


# The two halves of a rationale: columns of the tables, and names of the tasks that learn to write them.
RATIONALE_TASKS = ("user_preference", "item_attributes")
COLUMNS = ("review_row", *RATIONALE_TASKS)
CUT_FLAGS = frozenset({"cut_off", "too_long"})

_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f]['\"\u2019\u201d)\]*_`\s]*$")


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


def read_rationales(path: str | Path, *, teacher: str, prompt: str, skipped: Counter[str]) -> dict[int, dict[str, Any]]:
    """Read a file of rationales.

    Counts `duplicate_rationale` (a review's first row stays), `half_cut_off` (a half that ends in the middle of a
    sentence, of an answer that was flagged as cut) and `empty_rationale` (both halves empty) in `skipped`, and notes
    `rationale_of_one_half`.

    Returns
    -------
    dict of int to dict
        By review row: `user_preference`, `item_attributes` (str or None), `provenance` (dict).

    Raises
    ------
    DatasetError
        No such file, no such column, a row that is no JSON object, or a `review_row` that is no whole number from 0.
    """
    found: dict[int, dict[str, Any]] = {}
    with open(existing_file(path), "rb") as probe:
        is_parquet = probe.read(4) == b"PAR1"
    for place, row in _parquet_rows(path) if is_parquet else _json_rows(path):
        number = row["review_row"]
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise DatasetError(
                f"{place}: review_row {number!r} is no whole number from 0; it counts the reviews file's rows"
            )
        if number in found:
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
        found[number] = made
    return found


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
        except ValueError as error:
            raise DatasetError(f"{place}: not JSON ({error}); mend or delete the line") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{place}: not a JSON object; mend or delete the line")
        for column in COLUMNS:
            if column not in row:
                raise DatasetError(f"{place}: no {column!r}; each line needs {', '.join(COLUMNS)}")
        yield place, row


def _parquet_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: not a readable Parquet file; write it again") from error
    for column in COLUMNS:
        if column not in table.column_names:
            raise DatasetError(f"{path}: no column {column!r}; it needs {', '.join(COLUMNS)}")
    for number, row in enumerate(table.to_pylist()):
        yield f"{path} row {number}", row


def _sentence(value: Any) -> str | None:
    # A small teacher now and then answers with punctuation alone; that is an empty half.
    if not isinstance(value, str) or not any(character.isalnum() for character in value):
        return None
    return " ".join(text_of(value)[0].split())


def _score(value: Any) -> float | None:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None
