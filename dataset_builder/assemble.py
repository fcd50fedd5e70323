"""The last step of both builds: sequences, texts and names that already have ids become the four tables."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from rdrec.errors import DatasetError

from .splits import draw_candidates, leave_one_out, split_texts
from .tables import FORMAT, SCHEMAS, SPLITS, Tables, fingerprint


PROTOCOLS = ("clean", "published")
MOST_IN_A_COLUMN = 2**31 - 1  # elements of the lists of one column of Arrow, which counts them in 32 bits


@dataclass(frozen=True)
class Settings:
    """What the user chose for a build.

    Attributes
    ----------
    domain : str
        Name of the dataset.
    protocol : {"clean", "published"}
    seed : int
        Of ids, text splits and candidates.
    num_negatives : int
        Negatives a user in each candidates split.
    min_core : int or None
        Interactions that each user and item must have; None where the input is filtered already.
    min_rating : float or None
        Reviews with a lower rating, or with none, were left out.
    keep_repeats : bool
        All purchases of an item by a user were kept.

    Raises
    ------
    DatasetError
        For an unknown protocol.
    """

    domain: str
    protocol: str
    seed: int
    num_negatives: int
    min_core: int | None = None
    min_rating: float | None = None
    keep_repeats: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise DatasetError(f"--protocol {self.protocol}: unknown; choose one of {', '.join(PROTOCOLS)}")


@dataclass(frozen=True)
class Interactions:
    """The sequences of users 1, 2, … end to end, each oldest first.

    Attributes
    ----------
    items : int64 array of shape [n]
        Item ids from 1.
    lengths : int64 array of shape [n_users]
        Interactions of each user.
    timestamps : int64 array of shape [n] or None
        Unix seconds, or None when unknown.
    tested : int or None
        So many users, the first ones, have a validation and a test item; None: all. The others train whole.
    """

    items: np.ndarray
    lengths: np.ndarray
    timestamps: np.ndarray | None = None
    tested: int | None = None


@dataclass(frozen=True)
class Names:
    """Raw ids of users and items in the order of their ids, and the text of each item (None where there is none)."""

    users: Sequence[str]
    items: Sequence[str]
    item_texts: Sequence[str | None]


# What is said of a text: the columns of `rationales` that do not follow from its place.
TEXT_SCHEMA = pa.schema([column for column in SCHEMAS["rationales"] if column.name not in ("user", "item")])


def text_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of `TEXT_SCHEMA` from rows; what a row lacks is null."""
    columns = [pa.array([row.get(column.name) for row in rows], column.type) for column in TEXT_SCHEMA]
    return pa.table(columns, schema=TEXT_SCHEMA)


@dataclass(frozen=True)
class Texts:
    """The reviews that have an explanation.

    Attributes
    ----------
    table : pa.Table
        One row a review, of `TEXT_SCHEMA`.
    positions : int64 array of shape [table.num_rows]
        Ascending positions in `Interactions.items` of the reviews' interactions.
    splits : int8 array of shape [table.num_rows] or None
        The split of each text, where the source fixes it; drawn otherwise.
    trained : bool array of shape [table.num_rows] or None
        Texts that trained in the dataset that is extended, if one is.
    """

    table: pa.Table = field(default_factory=TEXT_SCHEMA.empty_table)
    positions: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    splits: np.ndarray | None = None
    trained: np.ndarray | None = None


def assemble(
    interactions: Interactions,
    names: Names,
    texts: Texts,
    settings: Settings,
    *,
    source: dict[str, Any],
    skipped: Counter[str],
    test_negatives: np.ndarray | None = None,
    notes: dict[str, str] | None = None,
    extends: dict[str, Any] | None = None,
    owned: Interactions | None = None,
) -> Tables:
    """Make the tables.

    Parameters
    ----------
    interactions : Interactions
    names : Names
    texts : Texts
    settings : Settings
    source : dict
        What to record as the origin.
    skipped : Counter
        What was left out, by reason.
    test_negatives : int64 array of shape [n_users, k] or None
        The test candidates, where the source fixes them; drawn here otherwise.
    notes : dict of str to str, optional
        How the input was understood, by topic; printed, and recorded where there are any.
    extends : dict, optional
        Fingerprint and counts of the dataset that this one extends, to be recorded.
    owned : Interactions, optional
        All that the tested users ever bought, none of which is drawn as a negative; default: their interactions.

    Raises
    ------
    DatasetError
        A user has too few items left to draw the negatives from, or there are more of them than a table can hold.
    """
    rationales = _rationales(interactions, texts, settings)
    candidates = _candidates(interactions, owned, len(names.items), settings, test_negatives)
    info = {
        "format": FORMAT,
        "domain": settings.domain,
        "protocol": settings.protocol,
        "seed": settings.seed,
        "source": source,
        "min_core": settings.min_core,
        "num_negatives": settings.num_negatives,
        "counts": {
            "users": len(names.users),
            "items": len(names.items),
            "interactions": len(interactions.items),
            "rationales": {split: table.num_rows for split, table in rationales.items()},
            "with_rationale": {
                split: table.num_rows - table["provenance"].null_count for split, table in rationales.items()
            },
        },
        "skipped": {reason: count for reason, count in sorted(skipped.items()) if count},
    }
    # Recorded where they were chosen, for a build that extends this one.
    info |= {name: value for name in ("min_rating", "keep_repeats") if (value := getattr(settings, name))}
    if extends:
        info["extends"] = extends
    if notes:
        info["notes"] = notes
    tables = Tables(rationales, _interactions(interactions), candidates, _catalog(names), info)
    info["fingerprint"] = fingerprint(tables)
    return tables


def _user_ids(interactions: Interactions) -> np.ndarray:
    return np.arange(1, len(interactions.lengths) + 1)


def _rationales(interactions: Interactions, texts: Texts, settings: Settings) -> dict[str, pa.Table]:
    splits = texts.splits
    if splits is None:
        parts = leave_one_out(interactions.lengths, interactions.tested)[texts.positions]
        splits = split_texts(parts, settings.protocol, settings.seed, texts.trained)
    users = np.repeat(_user_ids(interactions), interactions.lengths)
    columns = [users[texts.positions], interactions.items[texts.positions], *texts.table.columns]
    table = pa.table(columns, schema=SCHEMAS["rationales"])
    return {
        split: table.filter(pa.array(splits == part)).combine_chunks()
        for part, split in enumerate(SPLITS["rationales"])
    }


def _interactions(interactions: Interactions) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(interactions.lengths)]), pa.int32())
    stamps = (
        pa.nulls(len(interactions.lengths), pa.list_(pa.int64()))
        if interactions.timestamps is None
        else pa.ListArray.from_arrays(offsets, pa.array(interactions.timestamps, pa.int64()))
    )
    items = pa.ListArray.from_arrays(offsets, pa.array(interactions.items, pa.int64()))
    return pa.table([_user_ids(interactions), items, stamps], schema=SCHEMAS["interactions"])


def _candidates(
    interactions: Interactions,
    owned: Interactions | None,
    n_items: int,
    settings: Settings,
    test_negatives: np.ndarray | None,
) -> dict[str, pa.Table]:
    lengths = interactions.lengths[: interactions.tested]
    items = interactions.items[: lengths.sum()]
    theirs = (items, lengths) if owned is None else (owned.items, owned.lengths)
    if len(lengths) * settings.num_negatives > MOST_IN_A_COLUMN:
        raise DatasetError(
            f"--num_negatives {settings.num_negatives}: too many candidates for {len(lengths):,} users: give at most "
            f"{MOST_IN_A_COLUMN // len(lengths)}"
        )
    candidates = {}
    for split, back in (("validation", 2), ("test", 1)):
        if split == "test" and test_negatives is not None:
            negatives = test_negatives
        else:
            negatives = draw_candidates(*theirs, n_items, settings.num_negatives, settings.seed, split)
        starts = pa.array(np.arange(len(lengths) + 1) * negatives.shape[1], pa.int32())
        drawn = pa.ListArray.from_arrays(starts, pa.array(negatives.reshape(-1), pa.int64()))
        positives = items[np.cumsum(lengths) - back]
        candidates[split] = pa.table(
            [_user_ids(interactions)[: len(lengths)], positives, drawn], schema=SCHEMAS["candidates"]
        )
    return candidates


def _catalog(names: Names) -> pa.Table:
    n_users, n_items = len(names.users), len(names.items)
    return pa.table(
        [
            ["user"] * n_users + ["item"] * n_items,
            np.concatenate([np.arange(1, n_users + 1), np.arange(1, n_items + 1)]),
            [*names.users, *names.items],
            [None] * n_users + list(names.item_texts),
        ],
        schema=SCHEMAS["catalog"],
    )
