"""Users to answer and items to leave out, read from a file of raw ids.

    users, repeated = read_users("vip.txt", tokenizer)
    items, unknown = read_items("out_of_stock.csv", tokenizer)

A file is Parquet, CSV (its name says so) or plain text with one id a line; the latter two may be gzip or zip. A table
has a column `user` or `item`, or a single column.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.files import PARQUET_MAGIC, existing_file, numbered_lines, open_text
from rdrec.errors import UserError


def read_users(path: str, tokenizer) -> tuple[list[int], int]:
    """Internal ids of the users that a file names, each once, in its order; and how many rows repeat one.

    Raises
    ------
    UserError
        For a user that the catalog does not hold, naming row and id, or a file that names nobody.
    """
    users: dict[int, None] = {}
    rows = 0
    for place, key in _read(path, "user"):
        if not _known(tokenizer, "user", key, place):
            raise UserError(f"{place}: unknown user {key!r}: not of the dataset, take it out")
        users[tokenizer.to_id("user", key)] = None
        rows += 1
    if not users:
        raise UserError(f"{path}: names no user: give one id a line")
    return list(users), rows - len(users)


def read_items(path: str, tokenizer) -> tuple[list[int], int]:
    """Internal ids, ascending, of the items that a file names, and how many rows name none of the catalog.

    A stock list tells of everything in the shop, so an item that the catalog does not hold is no mistake.
    """
    items: set[int] = set()
    unknown = 0
    for place, key in _read(path, "item"):
        if _known(tokenizer, "item", key, place):
            items.add(tokenizer.to_id("item", key))
        else:
            unknown += 1
    return sorted(items), unknown


def _known(tokenizer, kind: str, key: Any, place: str) -> bool:
    try:
        return tokenizer.knows(kind, key)
    except ValueError as error:  # empty, null, NaN, a date: no id at all
        raise UserError(f"{place}: {error}") from error


def _read(path: str, column: str) -> Iterator[tuple[str, Any]]:
    """Where each id of a file stands, and the id: text without blanks around it, or a number of a Parquet file."""
    with open(existing_file(path), "rb") as stream:
        parquet = stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    if parquet:
        rows = _of_parquet(path, column)
    else:
        rows = _of_csv(path, column) if ".csv" in Path(path).name.lower() else numbered_lines(path)
    for place, key in rows:
        yield place, key.strip() if isinstance(key, str) else key


def _of_csv(path: str, column: str) -> Iterator[tuple[str, str]]:
    with open_text(path) as lines:
        rows = csv.reader(lines)
        place = None
        for row in rows:
            if place is None:
                header = [name.strip() for name in row]
                place = _place_of(column, header, path)
                if column in header:
                    continue  # a file of one column may do without a header
            if row:
                yield f"{path} line {rows.line_num}", row[place] if place < len(row) else ""


def _of_parquet(path: str, column: str) -> Iterator[tuple[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            batches = file.iter_batches(columns=[names[_place_of(column, names, path)]])
            keys = (key for batch in batches for key in batch.column(0).to_pylist())
            for number, key in enumerate(keys, start=1):
                yield f"{path} row {number}", key
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a readable Parquet file: write it again") from error


def _place_of(column: str, names: list[str], path: str) -> int:
    if column not in names and len(names) != 1:
        raise UserError(f"{path}: no column {column!r} among {', '.join(names)}: name the one with the ids {column!r}")
    return names.index(column) if column in names else 0
