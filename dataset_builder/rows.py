"""Rows of a file, whatever wrote it: text with separators, JSON lines, a JSON array, Python literals or Parquet.

    with open_table("shop.csv") as table:
        table.columns              # ["customer", "sku", …]
        for row in table.rows(): ...   # a dict by column, or the reason why there is none

The kind is told by the content. A bad row is given as its reason, so that the reader can count it and keep the numbers
of the others; a file that cannot be read on is a DatasetError.
"""

import ast
import csv
import io
import json
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from rdrec.errors import DatasetError

from .columns import Columns, by_number
from .files import PARQUET_MAGIC, head_of, open_bytes, open_text


Row = Mapping[str, Any] | str

# Lines of one CSV row; a longer one that does not fit the header is a quote left open, sooner so at the file's end.
MOST_LINES, MOST_LAST_LINES = 1000, 20
SAMPLE_ROWS = 1000  # of a file whose rows name their own columns
_SAMPLE = 1 << 20  # characters that the separator is told from
_CHUNK = 1 << 16
_BETWEEN = re.compile(r"[\s,]*")  # values of an array
_LONGEST = 1 << 26  # characters of one line of JSON, or of one object of a JSON array
_BATCH = 10_000  # rows of Parquet in memory
# MovieLens' older files have two colons; the csv module takes one character, so they are read as one that no text has.
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "pipes", "::": "double colons"}
_NO_TEXT_HAS = "\x1f"


class Table(NamedTuple):
    """One file.

    Attributes
    ----------
    columns : list of str
        Their names; where rows name their own, those that the first rows have. Empty where no row could be read.
    rows : callable
        Iterates the rows once; it may be given the columns that are needed, so that no others are read.
    mend : str
        What to do where most rows are malformed.
    """

    columns: list[str]
    rows: Callable[..., Iterator[Row]]
    mend: str


@contextmanager
def open_table(path: str | Path, kind: Columns, given: Mapping[str, str]) -> Iterator[Table]:
    """Open a file that holds rows.

    Parameters
    ----------
    path : path
    kind : Columns
        What columns are looked for: they help to tell the separator.
    given : mapping of str to str
        The columns that the user named.

    Raises
    ------
    DatasetError
        No such file, a damaged one, or a kind that holds no rows.
    """
    if head_of(path, 4) == PARQUET_MAGIC:
        with _seekable(path) as stream:
            yield _parquet(stream, path)
        return
    with open_text(path) as stream:
        first = next((line for line in iter(lambda: stream.readline(_SAMPLE), "") if line.strip()), "").strip()
    with open_text(path) as stream:
        if first.startswith("[") or (first.startswith("{") and first.endswith(("{", "[", ","))):
            yield _of_dicts(_json_values(stream, path), "write one JSON object a line")
        elif first.startswith("{"):
            yield _of_dicts(_lines(stream), "write one JSON object a line")
        elif not first:
            raise DatasetError(f"{path}: empty file; give one with rows")
        else:
            yield _csv(stream, path, kind, given)


def table_of(rows: Iterator[Row]) -> Table:
    """Rows (dicts) that are in memory already."""
    return _of_dicts(rows, "give one dict a row")


def _of_dicts(rows: Iterator[Row], mend: str) -> Table:
    sample = list(islice(rows, SAMPLE_ROWS))
    columns = list(dict.fromkeys(str(name) for row in sample if not isinstance(row, str) for name in row))
    return Table(columns, lambda only=None: chain(sample, rows), mend)


# ---- JSON -----------------------------------------------------------------------------------------------------------


def _lines(stream: TextIO) -> Iterator[Row]:
    """A dict for each line, as JSON or as Python writes it."""
    for line in _bounded(stream):
        if not line.strip():
            yield "blank_row"
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = literal(line.strip()) if line.lstrip().startswith("{") else None
        yield row if isinstance(row, dict) else "malformed_row"


def _bounded(stream: TextIO) -> Iterator[str]:
    """The lines of a stream; one that never ends, as a small archive can hold, comes in parts, which are no rows."""
    return iter(lambda: stream.readline(_LONGEST), "")


def literal(text: str) -> Any:
    """The value of a Python literal (nothing is run), None where it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in texts
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _json_values(stream: TextIO, path: str | Path) -> Iterator[Row]:
    """The objects of a JSON array, or objects one after the other, over as many lines as they like."""
    decode = json.JSONDecoder().raw_decode
    text, place, number = stream.read(_CHUNK), 0, 0
    place = _BETWEEN.match(text, 0).end()
    in_array = text[place : place + 1] == "["
    place += in_array
    while True:
        place = _BETWEEN.match(text, place).end()
        if text[place : place + 1] == "]" and in_array:
            if (text[place + 1 :] + stream.read(_CHUNK)).strip():
                raise DatasetError(f"{path}: more follows the end of the array; write one JSON object a line")
            return
        reason = "the array has no end" if in_array else None
        if place < len(text):
            try:
                row, place = decode(text, place)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", "nested too deeply")
            else:
                number += 1
                yield row if isinstance(row, dict) else "malformed_row"
                continue
        more = stream.read(max(_CHUNK, len(text) - place)) if len(text) - place < _LONGEST else ""
        if more:
            text, place = text[place:] + more, 0
        elif reason is None:
            return
        else:
            raise DatasetError(
                f"{path}: row {number} cannot be read as JSON ({reason}); mend it, or write one JSON object a line"
            )


# ---- text with separators -------------------------------------------------------------------------------------------


class _Dialect(NamedTuple):
    separator: str
    quotes: bool

    def reader(self, lines: Iterator[str]) -> Any:
        csv.field_size_limit(2**31 - 1)  # the default, 128 kB, is less than the longest reviews
        separator = self.separator
        if len(separator) > 1:
            lines = (line.replace(self.separator, _NO_TEXT_HAS) for line in lines)
            separator = _NO_TEXT_HAS
        return csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE)


def _csv(stream: TextIO, path: str | Path, kind: Columns, given: Mapping[str, str]) -> Table:
    sample = stream.read(_SAMPLE)
    whole = len(sample) < _SAMPLE
    if not whole:
        sample += stream.readline()
    lines = chain(_lines_of(sample), stream)
    if sample.startswith("sep=") and len(first := sample.splitlines()[0]) == 5:  # Excel's own way to say it
        dialect = _Dialect(first[4], quotes=True)
        next(lines)
    else:
        dialect = _dialect(sample, kind, given)
    reader = dialect.reader(lines)
    header = next((row for row in reader if any(name.strip() for name in row)), [])
    columns = [name.strip() for name in header]
    without_names = by_number(given)
    if without_names:
        columns = [str(place) for place in range(1, len(header) + 1)]

    def rows(only: Collection[str] | None = None) -> Iterator[Row]:
        if without_names:
            yield dict(zip(columns, header, strict=True))
        yield from _csv_rows(reader, columns, path)

    mend = (
        f"each row needs {len(columns)} fields, as the first has, separated by {SEPARATORS.get(dialect.separator)}; "
        "quote texts that hold the separator"
    )
    return Table(columns, rows, mend)


def _dialect(sample: str, kind: Columns, given: Mapping[str, str]) -> _Dialect:
    """The separator by which the first row splits into the most names that are known, and the rows most evenly."""
    best, best_score = _Dialect(",", quotes=True), (0, 0.0, 0)
    for separator in SEPARATORS:
        dialect = _Dialect(separator, _quotes(sample, separator))
        rows = [row for row in islice(_good_rows(dialect.reader(_lines_of(sample))), SAMPLE_ROWS) if row]
        width = len(rows[0]) if rows else 0
        if width > 1:
            known = kind.known([name.strip() for name in rows[0]], given)
            score = (known, sum(len(row) == width for row in rows) / len(rows), width)
            best, best_score = max((best, best_score), (dialect, score), key=lambda one: one[1])
    return best


def _quotes(sample: str, separator: str) -> bool:
    """Whether quotes hold a field together. With commas and semicolons they do; some tools write tabs with quotes as
    text, where they hold only if they do so in the whole sample and make no row worse.
    """
    if separator in ",;":
        return True
    if len(separator) > 1 or not re.search(rf'(^|{re.escape(separator)})"', sample, re.MULTILINE):
        return False
    rows = []
    try:
        rows.extend(csv.reader(_lines_of(sample), delimiter=separator, strict=True))
    except csv.Error as error:
        if "unexpected end" not in str(error):
            return False
    width = len(rows[0]) if rows else 0
    good = sum(len(row) == width for row in rows)
    return good >= sum(line.count(separator) == width - 1 for line in _lines_of(sample))


def _lines_of(sample: str) -> Iterator[str]:
    return io.StringIO(sample, newline="")


def _good_rows(reader: Any) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            continue


def _csv_rows(reader: Any, columns: list[str], path: str | Path) -> Iterator[Row]:
    width = len(columns)
    began = lines = 0  # of a row of another width, which a quote left open makes of all that follow it
    while True:
        if lines >= MOST_LINES:
            raise _open_quote(path, began)
        began = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            if lines >= MOST_LAST_LINES:
                raise _open_quote(path, began - lines) from None
            return
        except csv.Error:
            yield "malformed_row"
            continue
        lines = 0
        if len(fields) == width:
            yield dict(zip(columns, fields, strict=True))
        elif not fields:
            yield "blank_row"
        else:
            lines = reader.line_num - began + 1
            yield "malformed_row"


def _open_quote(path: str | Path, line: int) -> DatasetError:
    return DatasetError(f"{path}: a quote opened in line {line} is not closed; close or double it")


# ---- Parquet --------------------------------------------------------------------------------------------------------


@contextmanager
def _seekable(path: str | Path) -> Iterator[BinaryIO]:
    """Parquet is read from its end, which packed files cannot be: those are unpacked into a temporary file first."""
    with open(path, "rb") as plain, open_bytes(path) as unpacked, tempfile.TemporaryFile() as copy:
        if plain.read(4) == PARQUET_MAGIC:
            yield plain
        else:
            shutil.copyfileobj(unpacked, copy)
            yield copy


def _parquet(stream: Any, path: str | Path) -> Table:
    with _named(path):
        file = pq.ParquetFile(stream, buffer_size=_CHUNK)  # else whole columns are in memory
        columns = list(file.schema_arrow.names)

    def rows(only: Collection[str] | None = None) -> Iterator[Row]:
        batches = file.iter_batches(
            _BATCH, columns=columns if only is None else [name for name in columns if name in only]
        )
        while True:
            with _named(path):
                batch = next(batches, None)
                if batch is None:
                    return
                values = [_values(column) for column in batch.columns]
            yield from (dict(zip(batch.schema.names, row)) for row in zip(*values))

    return Table(columns, rows, "save it anew")


def _values(column: pa.Array) -> list[Any]:
    """A column as Python has it: bytes are text, nanoseconds, which Python lacks, are cut."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            return column.to_pylist()
        except UnicodeDecodeError:  # some tools write what they were given, unchecked
            column = column.cast(pa.large_binary())
    values = column.to_pylist()
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [None if value is None else value.decode("utf-8", "replace") for value in values]
    return values


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise DatasetError(f"{path}: damaged or truncated Parquet ({reason}); write or download it again") from error
