"""A build that extends an earlier one: what it takes from that dataset, so that known users and items keep their ids.

    known = read_known("data/july")      # then build_tables("august.jsonl", extend="data/july")

Nothing of the earlier dataset is lost: a purchase that the new reviews no longer hold stays as it was, with its texts.
Codes of users and items count from 0 in the order of the ids, so the known ones come first.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rdrec.errors import DatasetError

from .assemble import Interactions
from .tables import Tables, load_tables
from .time_split import is_time_split


# What a build takes where nothing is said. One that extends another takes that one's.
DEFAULTS = {
    "protocol": "clean",
    "seed": 0,
    "num_negatives": 99,
    "min_core": 5,
    "min_rating": None,
    "keep_repeats": False,
}


def _no_codes() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Known:
    """What is known before a build reads its reviews; nothing, unless it extends a dataset.

    Attributes
    ----------
    info : dict
        The dataset's `build_info.json`; empty where nothing is extended.
    raw_users, raw_items : list of str
        Raw ids, by code.
    item_texts : dict of str to str
        The catalog's text by raw item id.
    users, items, timestamps : int64 arrays of shape [n]
        Its purchases, as codes and Unix seconds, user by user, oldest first.
    texts : dict of int to dict
        The columns of `rationales`, by user and item (as `_pair` makes one number of them).
    trained : int64 array
        Of which user and item the texts in its training split are.
    """

    info: dict[str, Any] = field(default_factory=dict)
    raw_users: list[str] = field(default_factory=list)
    raw_items: list[str] = field(default_factory=list)
    item_texts: dict[str, str] = field(default_factory=dict)
    users: np.ndarray = field(default_factory=_no_codes)
    items: np.ndarray = field(default_factory=_no_codes)
    timestamps: np.ndarray = field(default_factory=_no_codes)
    texts: dict[int, dict[str, Any]] = field(default_factory=dict)
    trained: np.ndarray = field(default_factory=_no_codes)

    def texts_at(self, interactions: Interactions, where: np.ndarray) -> dict[int, dict[str, Any]]:
        """The known texts of the interactions in the mask `where`, by position."""
        places = np.flatnonzero(where)
        pairs = _pairs_of(interactions)[places].tolist()
        return {place: self.texts[pair] for place, pair in zip(places.tolist(), pairs) if pair in self.texts}

    def trained_at(self, interactions: Interactions) -> np.ndarray:
        """Whether each interaction has a text that stood in the training split: bool `[interactions]`."""
        return np.isin(_pairs_of(interactions), self.trained)

    def record(self) -> dict[str, Any] | None:
        """What the new `build_info.json` says of the dataset that it extends, if it does."""
        if not self.info:
            return None
        counts = self.info["counts"]
        return {"fingerprint": self.info["fingerprint"]} | {
            name: counts[name] for name in ("users", "items", "interactions")
        }


def read_known(path: str | Path) -> Known:
    """Read the dataset that a build extends, from a folder or a dataset repo.

    Raises
    ------
    DatasetError
        No such dataset, or one that was not built from reviews.
    """
    tables = load_tables(path)
    if is_time_split(tables.info):
        raise DatasetError(f"--extend {path}: a split by time, which is for measuring; extend the one it was made of")
    if tables.info["min_core"] is None or tables.interactions["timestamps"].null_count:
        raise DatasetError(
            f"--extend {path}: its purchases have no times, so none can follow them; build it from reviews"
        )
    lengths = np.diff(tables.interactions["items"].combine_chunks().offsets.to_numpy())
    texts, trained = _texts(tables)
    of_kind = {"user": {}, "item": {}}
    for row in tables.catalog.to_pylist():
        of_kind[row["kind"]][row["raw_id"]] = row["text"]
    return Known(
        info=tables.info,
        raw_users=list(of_kind["user"]),
        raw_items=list(of_kind["item"]),
        item_texts={raw: text for raw, text in of_kind["item"].items() if text is not None},
        users=np.repeat(np.arange(len(lengths)), lengths),
        items=_flat(tables, "items") - 1,
        timestamps=_flat(tables, "timestamps"),
        texts=texts,
        trained=trained,
    )


def _flat(tables: Tables, column: str) -> np.ndarray:
    return tables.interactions[column].combine_chunks().flatten().to_numpy()


def _texts(tables: Tables) -> tuple[dict[int, dict[str, Any]], np.ndarray]:
    texts = {_pair(row["user"], row["item"]): row for table in tables.rationales.values() for row in table.to_pylist()}
    trained = tables.rationales["train"]
    return texts, _pair(trained["user"].to_numpy(), trained["item"].to_numpy())


def _pair(user, item):
    """One number for a user and an item, from ids or arrays of ids."""
    return (user << 32) | item


def _pairs_of(interactions: Interactions) -> np.ndarray:
    users = np.repeat(np.arange(1, len(interactions.lengths) + 1), interactions.lengths)
    return _pair(users, interactions.items)


def settle(given: dict[str, Any], known: Known, where: str | Path | None) -> dict[str, Any]:
    """Each setting: as given, else that of the dataset that is extended, else the default.

    Raises
    ------
    DatasetError
        One is given that the extended dataset, which is at `where`, was not built with.
    """
    if not known.info:
        return {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
    before = {name: known.info.get(name, DEFAULTS[name]) for name in given}
    for name, value in given.items():
        if value not in (None, before[name]):
            raise DatasetError(
                f"--{name} {value}: {where} was built with {before[name]}, which extending keeps; leave it out"
            )
    return before
