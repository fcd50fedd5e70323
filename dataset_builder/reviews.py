"""Reader of raw reviews: Amazon 2014, 2018 and 2023 field names, JSON lines or CSV, plain, gzip or zip, streaming.

    skipped = Counter()
    for review in read_reviews("reviews_Beauty_5.json.gz", skipped=skipped): ...

| field | 2014 and 2018 | 2023 |
| --- | --- | --- |
| user | reviewerID | user_id |
| item | asin | parent_asin, else asin |
| time | unixReviewTime (seconds), else reviewTime ("02 28, 2014") | timestamp (milliseconds) |
| text | reviewText | text |
| rating, summary (both optional) | overall, summary | rating, title |

A bad row is skipped and counted by reason; a bad file (no such column, no good row, damaged archive) is a
DatasetError.
"""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rdrec.errors import DatasetError

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

_DATE = re.compile(r"(\d{1,2}) (\d{1,2}), (\d{4})")
_REPLACED = "\ufffd"  # what a byte that is not UTF-8 was decoded to
_INT64 = 2**63


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

ReviewSource = str | Path | Callable[[], Iterator[Mapping[str, Any]]]


def read_reviews(source: ReviewSource, *, skipped: Counter[str]) -> Iterator[Review]:
    """Stream the reviews of a file, or of a callable that returns a fresh iterator of such rows (dicts).

    Parameters
    ----------
    source : path or callable
    skipped : Counter
        Gets, by reason (`ROW_SKIPS`), the rows left out, and
        under `undecodable_text` the rows kept although some bytes were not UTF-8.

    Yields
    ------
    Review

    Raises
    ------
    DatasetError
        No such file, a damaged archive, a required column missing, or not one good row.
    """
    if callable(source):
        yield from _reviews_of_rows(source(), "the given rows", skipped)
        return
    with open_text(source) as stream:
        first = _first_character(stream)
    if first == "[":
        raise DatasetError(f"{source}: one JSON array; write one object a line instead (JSON lines)")
    with open_text(source) as stream:
        rows = _json_rows(stream) if first == "{" else _csv_rows(stream, source)
        yield from _reviews_of_rows(rows, str(source), skipped)


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
    return DatasetError(f"{where}: no column for the {field}; rename the column to one of {accepted}")


def _reviews_of_rows(rows: Iterator[Mapping[str, Any] | str], where: str, skipped: Counter[str]) -> Iterator[Review]:
    seen: set[str] = set()  # fields that some row had; a JSON object may leave out what others have
    count = good = 0
    for number, row in enumerate(rows):
        count += 1
        if isinstance(row, str):
            skipped[row] += 1
            continue
        columns = {field: next((n for n in names if n in row), None) for field, names in FIELDS.items()}
        seen.update(field for field, name in columns.items() if name is not None)
        user = _text_of(row, columns["user"])
        item = _text_of(row, "parent_asin") or _text_of(row, "asin")
        if not user or not item:
            skipped["missing_user" if not user else "missing_item"] += 1
            continue
        timestamp = _seconds(row, columns["time"])
        if timestamp is None:
            skipped["bad_time"] += 1
            continue
        text, summary = _text_of(row, columns["text"]), _text_of(row, columns["summary"])
        if _REPLACED in text or _REPLACED in summary:
            skipped["undecodable_text"] += 1
        good += 1
        yield Review(number, user, item, timestamp, text, _number(row.get(columns["rating"])), summary)
    if not count:
        raise DatasetError(f"{where}: no rows; give a file of reviews")
    for field in REQUIRED:
        if field not in seen and seen:
            raise _no_column(where, field)
    if not good:
        reason, times = Counter({r: n for r, n in skipped.items() if n}).most_common(1)[0]
        raise DatasetError(f"{where}: not one good row of {count} ({times} {reason}); check the format of the file")


def _text_of(row: Mapping[str, Any], column: str | None) -> str:
    value = row.get(column)
    return value.strip() if isinstance(value, str) else "" if value is None else str(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _seconds(row: Mapping[str, Any], column: str | None) -> int | None:
    number = _number(row.get(column))
    if number is not None:
        number = number // 1000 if column == "timestamp" else number
        return int(number) if abs(number) < _INT64 else None
    date = _DATE.fullmatch(_text_of(row, "reviewTime"))
    if date is None:
        return None
    month, day, year = map(int, date.groups())
    try:
        return int(datetime(year, month, day, tzinfo=UTC).timestamp())
    except ValueError:
        return None
