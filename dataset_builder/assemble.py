"""The last step of both builds: sequences, texts and names that already have ids become the four tables."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .splits import leave_one_out, sample_negatives, split_texts
from .tables import FORMAT, SCHEMAS, SPLITS, Tables, fingerprint


PROTOCOLS = ("clean", "published")


def assemble(
    items: np.ndarray,
    lengths: np.ndarray,
    timestamps: np.ndarray | None,
    raw_users: Sequence[str],
    raw_items: Sequence[str],
    item_texts: Sequence[str | None],
    text_rows: Sequence[dict[str, Any]],
    text_positions: np.ndarray,
    *,
    text_splits: np.ndarray | None = None,
    test_negatives: np.ndarray | None = None,
    domain: str,
    protocol: str,
    seed: int,
    min_core: int | None,
    num_negatives: int,
    source: dict[str, Any],
    skipped: Counter[str],
) -> Tables:
    """Make the tables.

    Parameters
    ----------
    items : int64 array of shape [n]
        Item ids from 1; the sequences of users 1, 2, … end to end, each oldest first.
    lengths : int64 array of shape [n_users]
    timestamps : int64 array of shape [n] or None
        Unix seconds, or None when unknown.
    raw_users, raw_items : sequences of str, of length n_users and n_items
        By id.
    item_texts : sequence of str or None, of length n_items
    text_rows : sequence of dict
        Columns `explanation`, `feature` and, where there is a rationale, its columns; one dict a review with a text.
    text_positions : int64 array of shape [len(text_rows)]
        Ascending positions in `items` of the reviews' interactions.
    text_splits : int8 array of shape [len(text_rows)] or None
        The split of each text, where the source fixes it; drawn here otherwise.
    test_negatives : int64 array of shape [n_users, k] or None
        The test candidates, where the source fixes them; drawn here otherwise.
    """
    n_users, n_items = len(lengths), len(raw_items)
    users = np.repeat(np.arange(1, n_users + 1), lengths)
    ends = np.cumsum(lengths)
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32())

    if text_splits is None:
        text_splits = split_texts(leave_one_out(lengths)[text_positions], protocol, seed)
    columns = {"user": users[text_positions], "item": items[text_positions]}
    for field in SCHEMAS["rationales"]:
        if field.name not in columns:
            columns[field.name] = pa.array([row.get(field.name) for row in text_rows], field.type)
    texts = pa.table(columns, schema=SCHEMAS["rationales"])
    rationales = {
        split: texts.filter(pa.array(text_splits == part)).combine_chunks()
        for part, split in enumerate(SPLITS["rationales"])
    }

    stamps = (
        pa.nulls(n_users, pa.list_(pa.int64()))
        if timestamps is None
        else pa.ListArray.from_arrays(offsets, pa.array(timestamps, pa.int64()))
    )
    interactions = pa.table(
        [np.arange(1, n_users + 1), pa.ListArray.from_arrays(offsets, pa.array(items, pa.int64())), stamps],
        schema=SCHEMAS["interactions"],
    )

    candidates = {}
    for split, back in (("validation", 2), ("test", 1)):
        if split == "test" and test_negatives is not None:
            negatives = test_negatives
        else:
            negatives = sample_negatives(items, lengths, n_items, num_negatives, seed, split)
        starts = pa.array(np.arange(n_users + 1) * negatives.shape[1], pa.int32())
        drawn = pa.ListArray.from_arrays(starts, pa.array(negatives.reshape(-1), pa.int64()))
        candidates[split] = pa.table(
            [np.arange(1, n_users + 1), items[ends - back], drawn], schema=SCHEMAS["candidates"]
        )

    catalog = pa.table(
        [
            ["user"] * n_users + ["item"] * n_items,
            np.concatenate([np.arange(1, n_users + 1), np.arange(1, n_items + 1)]),
            [*raw_users, *raw_items],
            [None] * n_users + list(item_texts),
        ],
        schema=SCHEMAS["catalog"],
    )

    info = {
        "format": FORMAT,
        "domain": domain,
        "protocol": protocol,
        "seed": seed,
        "source": source,
        "min_core": min_core,
        "num_negatives": num_negatives,
        "counts": {
            "users": n_users,
            "items": n_items,
            "interactions": len(items),
            "rationales": {split: table.num_rows for split, table in rationales.items()},
            "with_rationale": {
                split: table.num_rows - table["provenance"].null_count for split, table in rationales.items()
            },
        },
        "skipped": {reason: count for reason, count in sorted(skipped.items()) if count},
    }
    tables = Tables(rationales, interactions, candidates, catalog, info)
    info["fingerprint"] = fingerprint(tables)
    return tables
