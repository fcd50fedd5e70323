"""Texts of the catalog: a file of `ASIN a few words` lines."""

from pathlib import Path

from rdrec.errors import DatasetError

from .files import open_text


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
