"""Reader of raw reviews: Amazon 2014, 2018 and 2023 field names, JSON lines or CSV, plain, gzip or zip, streaming.

    skipped = Counter()
    for review in read_reviews("reviews_Beauty_5.json.gz", skipped=skipped): ...

| field | 2014 and 2018 | 2023 |
| --- | --- | --- |
| user | reviewerID | user_id |
| item | asin | parent_asin, else asin |
| time | unixReviewTime, else reviewTime | timestamp |
| text | reviewText | text |
| rating, summary (both optional) | overall, summary | rating, title |

Times may be seconds, milliseconds or dates in any of these columns: the values tell, never the column's name, and a
column that mixes them is an error. What is an id, a text and a time is said in `fields.py`.

A bad row is skipped and counted by reason; a bad file (no such column, no good row, damaged archive) is a
DatasetError, and so is an id that cannot be read, since it would be another's.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rdrec.errors import DatasetError

from .fields import DATES, id_of, number_of, text_of, time_of
from .files import open_text


# In order of preference. In the 2023 release `asin` names one variant (a size, a colour) and `parent_asin` the
# product: variants split the few reviews of a product between them, and the release's own 5-core is counted on
# parent_asin.
FIELDS: dict[str, tuple[str, ...]] = {
    "user": ("reviewerID", "user_id"),
    "item": ("parent_asin", "asin"),
    "time": ("unixReviewTime", "timestamp", "reviewTime"),
    "text": ("reviewText", "text"),
    "rating": ("overall", "rating"),
    "summary": ("summary", "title"),
}
REQUIRED = ("user", "item", "time", "text")
ROW_SKIPS = ("blank_row", "malformed_row", "missing_user", "missing_item", "bad_time")


class Review(NamedTuple):
    """One review. `row` counts the data rows of its file from 0, bad ones included; `timestamp` is in seconds."""

    row: int
    user: str
    item: str
    timestamp: int
    text: str
    rating: float | None
    summary: str


MOST_LINES = 1000  # of one CSV row; a longer row that does not fit the header is a quote left open

_TIMES = "times may be seconds, milliseconds or dates like 2014-02-28T10:00:00 (the values tell which)"

ReviewSource = str | Path | Callable[[], Iterator[Mapping[str, Any]]]


def read_reviews(
    source: ReviewSource, *, skipped: Counter[str], times: dict[str, str] | None = None
) -> Iterator[Review]:
    """Stream the reviews of a file, or of a callable that returns a fresh iterator of such rows (dicts).

    Parameters
    ----------
    source : path or callable
    skipped : Counter
        Gets, by reason (`ROW_SKIPS`), the rows left out, and
        under `undecodable_text` the rows kept although some letters of their text could not be read.
    times : dict, optional
        Gets, by column, what its times are in: "seconds", "milliseconds", …, or "dates".

    Yields
    ------
    Review

    Raises
    ------
    DatasetError
        No such file, a damaged archive, a required column missing, times of several units in one column, an id
        that cannot be read, or not one good row.
    """
    if callable(source):
        yield from _reviews_of_rows(source(), "the given rows", skipped, times)
        return
    with open_text(source) as stream:
        first = _first_character(stream)
    if first == "[":
        raise DatasetError(f"{source}: one JSON array; write one object a line instead (JSON lines)")
    with open_text(source) as stream:
        rows = _json_rows(stream) if first == "{" else _csv_rows(stream, source)
        yield from _reviews_of_rows(rows, str(source), skipped, times)


def _first_character(stream: TextIO) -> str:
    while character := stream.read(1):
        if not character.isspace():
            return character
    return ""


def _json_rows(stream: TextIO) -> Iterator[Mapping[str, Any] | str]:
    """A dict for each line, or the reason why there is none."""
    for line in stream:
        if not line.strip():
            yield "blank_row"
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield "malformed_row"
            continue
        yield row if isinstance(row, dict) else "malformed_row"


def _csv_rows(stream: TextIO, where: str | Path) -> Iterator[Mapping[str, Any] | str]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 kB, is less than the longest reviews
    reader = csv.reader(stream)
    header = [name.strip() for name in next(reader, [])]
    if not header:
        raise DatasetError(f"{where}: empty file; give a reviews file")
    for field in REQUIRED:
        if not any(name in header for name in FIELDS[field]):
            raise _no_column(str(where), field)
    width = len(header)
    while True:
        began = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield "malformed_row"
            continue
        if len(fields) != width and reader.line_num - began >= MOST_LINES:
            raise DatasetError(f"{where}: a quote opened in line {began} is not closed; close or double it")
        if not fields:
            yield "blank_row"
        elif len(fields) != width:
            yield "malformed_row"
        else:
            yield dict(zip(header, fields, strict=True))


def _no_column(where: str, field: str) -> DatasetError:
    accepted = ", ".join(FIELDS[field])
    units = f"; {_TIMES}" if field == "time" else ""
    return DatasetError(f"{where}: no column for the {field}; give it one of the names {accepted}{units}")


class _Times:
    """Reads times, and sees to it that all times of a column are in one unit."""

    def __init__(self, where: str):
        self.where = where
        self.first: dict[str, tuple[str, int, Any]] = {}  # by column: what it is in, and the row and value that told

    def seconds(self, number: int, row: Mapping[str, Any], column: str | None) -> int | None:
        """Unix seconds of a row's time, None where there is none. `reviewTime` stands in for a column of no use."""
        for name in (column, "reviewTime"):
            value = row.get(name)
            found = None if value is None else time_of(value)
            if found is None:
                continue
            unit, seconds = found
            if unit is not None:
                known, known_row, known_value = self.first.setdefault(name, (unit, number, value))
                if known != unit:
                    raise DatasetError(
                        f"{self.where}: times of column {name!r} are mixed: {known_value!r} in row {known_row} is "
                        f"{_told(known)}, {value!r} in row {number} is {_told(unit)}; write all of them in one unit"
                    )
            return seconds
        return None


def _told(unit: str) -> str:
    return "a date" if unit == DATES else f"in {unit}"


def _reviews_of_rows(
    rows: Iterator[Mapping[str, Any] | str], where: str, skipped: Counter[str], times: dict[str, str] | None
) -> Iterator[Review]:
    seen: set[str] = set()  # fields that some row had; a JSON object may leave out what others have
    clock = _Times(where)
    header: tuple[str, ...] | None = None
    columns: dict[str, str | None] = {}
    count = good = 0
    for number, row in enumerate(rows):
        count += 1
        if isinstance(row, str):
            skipped[row] += 1
            continue
        if tuple(row) != header:  # looked up anew only where the names change: it is a fifth of the reading
            header = tuple(row)
            columns = {field: next((n for n in names if n in row), None) for field, names in FIELDS.items()}
            seen.update(field for field, name in columns.items() if name is not None)
        user = _id(where, number, row, columns["user"])
        item = _id(where, number, row, "parent_asin") or _id(where, number, row, "asin")
        if not user or not item:
            skipped["missing_user" if not user else "missing_item"] += 1
            continue
        timestamp = clock.seconds(number, row, columns["time"])
        if timestamp is None:
            skipped["bad_time"] += 1
            continue
        text, text_is_damaged = text_of(row.get(columns["text"]))
        summary, summary_is_damaged = text_of(row.get(columns["summary"]))
        if text_is_damaged or summary_is_damaged:
            skipped["undecodable_text"] += 1
        good += 1
        yield Review(number, user, item, timestamp, text, number_of(row.get(columns["rating"])), summary)
    if times is not None:
        times.update({column: unit for column, (unit, _, _) in clock.first.items()})
    if not count:
        raise DatasetError(f"{where}: no rows; give a file of reviews")
    for field in REQUIRED:
        if field not in seen and seen:
            raise _no_column(where, field)
    if not good:
        reason, bad = Counter({r: n for r, n in skipped.items() if n}).most_common(1)[0]
        mend = _TIMES if reason == "bad_time" else "check the format of the file"
        raise DatasetError(f"{where}: not one good row of {count} ({bad} {reason}); {mend}")


def _id(where: str, number: int, row: Mapping[str, Any], column: str | None) -> str:
    try:
        return id_of(row.get(column))
    except DatasetError as error:
        raise DatasetError(f"{where}: row {number}, column {column!r}: {error}") from error
