"""The best possible ranking of the sample: by the true probability that a user buys an item next."""

import numpy as np
import pyarrow as pa

from dataset_builder.tables import Tables
from rdrec.errors import DatasetError

from .world import World


def ceiling_ranks(world: World, tables: Tables, split: str = "test") -> dict[str, np.ndarray]:
    """Rank each user's target by its true probability: the best that can be expected of any model.

    A model sees ids and histories; this ranking also knows the tastes and the rule of purchase. A model may pass it by
    luck on one user, not in expectation. In both tasks the ranking knows the whole history before the target, though a
    top-N prompt does not show it; a model of top-N must remember its users, and what they bought last it cannot know
    if it is the validation item.

    Parameters
    ----------
    world : World
    tables : Tables
        A dataset built from `world.reviews()`.
    split : str
        "test" or "validation".

    Returns
    -------
    dict
        `{"sequential": ranks, "topn": ranks}`: each int64 [users], from 1. Sequential ranks all items but the user's
        history; top-N ranks the positive and its negatives.

    Raises
    ------
    DatasetError
        Another split, or a dataset that is not of this world.
    """
    if split not in ("validation", "test"):
        raise DatasetError(f"split {split!r}: the ceiling is known for 'validation' and 'test'")
    users, items = _raw_ids(tables.catalog, "user"), _raw_ids(tables.catalog, "item")
    held_out = {"test": 1, "validation": 2}[split]
    all_items = np.array([world.item_number(items[number]) for number in range(1, len(items) + 1)])
    candidates = tables.candidates[split]
    negatives = dict(
        zip(candidates["user"].to_pylist(), candidates["negatives"].combine_chunks().to_pylist(), strict=True)
    )
    sequential, topn = [], []
    for user, bought in zip(
        tables.interactions["user"].to_pylist(), tables.interactions["items"].to_pylist(), strict=True
    ):
        history, target = bought[:-held_out], bought[-held_out]
        scores = world.scores(users[user], [items[item] for item in history])[all_items]
        # Probabilities are sums of many real terms, so two open items never tie; history stands at -inf, below all.
        sequential.append(1 + int((scores > scores[target - 1]).sum()))
        topn.append(1 + int((scores[np.array(negatives[user]) - 1] > scores[target - 1]).sum()))
    return {"sequential": np.array(sequential), "topn": np.array(topn)}


def _raw_ids(catalog: pa.Table, kind: str) -> dict[int, str]:
    rows = zip(*(catalog[name].to_pylist() for name in ("kind", "id", "raw_id")), strict=True)
    return {number: raw for row_kind, number, raw in rows if row_kind == kind}
