"""Texts of the catalog: a file of `ASIN a few words` lines, or a file of items with their titles and metadata.

read_item_text("item_text.txt")                     # {"B000": "a wide strap", …}
read_items("meta.json.gz", wanted=raw_items)        # the same, of the items that are wanted
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rdrec.errors import DatasetError

from .columns import REVIEW_COLUMNS, Chosen, Columns, by_number, shown
from .explanations import clean_text
from .fields import NO_ID, id_of, text_of, whole_number
from .files import data_files, open_text
from .rows import literal, open_table


ITEM_COLUMNS = Columns(
    "--item_columns",
    {
        "item": (*REVIEW_COLUMNS.names["item"], "id", "itemno", "itemnumber"),
        "title": (
            "title",
            "name",
            "itemname",
            "productname",
            "producttitle",
            "movietitle",
            "booktitle",
            "appname",
            "prodname",
        ),
        "brand": ("brand", "store", "author", "authors", "manufacturer", "maker", "developer", "publisher", "artist"),
        "categories": (
            *("categories", "category", "maincategory", "maincat", "genres", "genre", "tags", "class", "department"),
            *("producttypename", "productgroupname"),
        ),
        "description": ("description", "features", "feature", "detaildesc", "summary", "plot", "about"),
    },
    required=("item",),
    single=("item",),
)
_CATEGORY_MARK = re.compile(r"\s*\|\s*")  # MovieLens writes Drama|Comedy


class ItemTexts(NamedTuple):
    """`texts` by raw id; `ignored` counts rows of items that nobody bought, `bad` rows without an id."""

    texts: dict[str, str]
    ignored: int
    bad: int


def read_item_text(path: str | Path) -> dict[str, str]:
    """Read a text for each raw item id; an id without words has no entry, of an id given twice the first line counts.

    Raises
    ------
    DatasetError
        No such file, or no line in it has an id and words.
    """
    texts: dict[str, str] = {}
    with open_text(path) as stream:
        for line in stream:
            raw_id, _, text = line.strip().partition(" ")
            if text.strip():
                texts.setdefault(raw_id, " ".join(text.split()))
    if not texts:
        raise DatasetError(f"{path}: no line with an item id and words; each line is `ASIN a few words`")
    return texts


def read_items(
    path: str | Path,
    wanted: Iterable[str],
    columns: Mapping[str, str] | None = None,
    item_of_reviews: Sequence[str] = (),
) -> ItemTexts:
    """Read title, brand, categories and description of each item, as one text: "Title. Brand. Category, category. …".

    Parameters
    ----------
    path : path
        A file or folder of the kinds that reviews may be in (see `rows.py`).
    wanted : iterable of str
        Raw ids of the items that were bought; numbers match as they do among reviews ("12" is "12.0").
    columns : mapping of str to str, optional
        By role (item, title, brand, categories, description), a column's name or number; the others are guessed.
    item_of_reviews : sequence of str
        Columns that hold the item among the reviews: a column of the same name holds it here.

    Raises
    ------
    DatasetError
        No such file, no column for the item or several, no column with words, an id that cannot be read, or none of
        the items is wanted.
    """
    wanted_as = {whole_number(raw): raw for raw in wanted}
    texts: dict[str, str] = {}
    ignored = bad = 0
    chosen: Chosen = {}
    for file in data_files(path):
        with open_table(file, ITEM_COLUMNS, columns or {}) as table:
            known = dict.fromkeys(table.columns)
            chosen = _choose(table.columns, columns, item_of_reviews, file) if known else {}
            for number, row in enumerate(table.rows(_needed(chosen))):
                if isinstance(row, str):
                    bad += 1
                    continue
                new = [name for name in row if name not in known]  # a JSON object may have what others lack
                if new or not chosen:
                    known.update(dict.fromkeys(new))
                    chosen = _choose(list(known), columns, item_of_reviews, file)
                raw = _id(file, number, row, chosen["item"])
                name = wanted_as.get(whole_number(raw))
                if not raw:
                    bad += 1
                elif name is None:
                    ignored += 1
                elif name not in texts and (text := _text(row, chosen)):
                    texts[name] = text
    if not texts:
        of_ids = f"; ids are read from column {' or else '.join(map(repr, chosen['item']))}" if chosen else ""
        raise DatasetError(
            f"{path}: no text for any item that was bought ({ignored:,} rows of others, {bad:,} bad rows){of_ids}; "
            "give the file of these items, or name the column with --item_columns item=NAME"
        )
    return ItemTexts(texts, ignored, bad)


def _needed(chosen: Chosen) -> list[str]:
    return list(dict.fromkeys(name for names in chosen.values() for name in names))


def _choose(
    columns: list[str], given: Mapping[str, str] | None, item_of_reviews: Sequence[str], where: str | Path
) -> Chosen:
    given = dict(given or {})
    same = next((name for name in item_of_reviews if name in columns), None)
    if same is not None and not by_number(given):
        given = {"item": same, **given}
    chosen = ITEM_COLUMNS.choose(columns, given, str(where))
    if len(chosen) == 1:
        raise DatasetError(
            f"{where}: no column with words about the items; the columns are {shown(columns)}; name one with "
            "--item_columns title=NAME (or brand, categories, description)"
        )
    return chosen


def _id(file: Path, number: int, row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    try:
        return next((found for name in names if (found := id_of(row.get(name)))), "")
    except DatasetError as error:
        raise DatasetError(f"{file}: row {number}: {error}") from error


def _text(row: Mapping[str, Any], chosen: Mapping[str, tuple[str, ...]]) -> str:
    """What a row says of its item, title first, each thing once."""
    parts: dict[str, None] = {}
    for role, names in chosen.items():
        if role != "item":
            words = ", ".join(dict.fromkeys(word for name in names for word in _words(row.get(name))))
            if role == "categories":
                words = _CATEGORY_MARK.sub(", ", words)
            parts.setdefault(words.rstrip(" ."))
    return ". ".join(part for part in parts if part)


def _words(value: Any) -> Iterator[str]:
    """The texts in a value; lists, also lists of lists as in Amazon's categories, are flattened."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _words(part)
    elif isinstance(value, str) and value.startswith("[") and isinstance(found := literal(value), list):
        yield from _words(found)  # a list that was written into a CSV
    elif not isinstance(value, dict):
        text = clean_text(text_of(value)[0])
        if text not in NO_ID:
            yield text
