"""Interactions: one per user and item (every one on request), k-core to a fixed point, each user's in order of time.

All on integer arrays: `users`, `items` are codes from 0 in order of first appearance in the file, `timestamps`
seconds, and a position in these arrays is the order of the rows in the file.
"""

from collections import Counter

import numpy as np

from rdrec.errors import DatasetError


LEAVE_ONE_OUT = 3  # a user needs one item to train on, one to validate and one to test


def first_interactions(
    users: np.ndarray, items: np.ndarray, timestamps: np.ndarray, keep_repeats: bool = False
) -> np.ndarray:
    """Positions of each user-item pair's earliest interaction (by time, then by row of the file), ascending.

    With `keep_repeats`, of each user, item and second: the same line twice is still one purchase.

    Parameters
    ----------
    users, items, timestamps : int64 arrays of shape [n]

    Returns
    -------
    int64 array of shape [number of distinct pairs, or more]
    """
    order = np.lexsort((np.arange(len(users)), timestamps, items, users))
    pairs = np.stack([users[order], items[order], *([timestamps[order]] if keep_repeats else [])])
    first = np.ones(len(order), dtype=bool)
    first[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    return np.sort(order[first])


def core(users: np.ndarray, items: np.ndarray, user_min: int | np.ndarray, item_min: int | np.ndarray) -> np.ndarray:
    """Mask of the largest set in which each user has `user_min` interactions and each item `item_min` (a fixed point).

    Parameters
    ----------
    users, items : int64 arrays of shape [n]
    user_min, item_min : int, or int64 arrays of shape [n]: for each interaction that of its user, of its item

    Returns
    -------
    bool array of shape [n]
    """
    keep = np.ones(len(users), dtype=bool)
    while True:
        user_counts = np.bincount(users[keep], minlength=users.max(initial=-1) + 1)
        item_counts = np.bincount(items[keep], minlength=items.max(initial=-1) + 1)
        next_keep = keep & (user_counts[users] >= user_min) & (item_counts[items] >= item_min)
        if next_keep.sum() == keep.sum():
            return keep
        keep = next_keep


def filter_interactions(
    users: np.ndarray,
    items: np.ndarray,
    timestamps: np.ndarray,
    min_core: int,
    skipped: Counter[str],
    keep_repeats: bool = False,
    known: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Positions that stay, each user's oldest first (ties in time: the order of the file), users by first appearance.

    Users and items with codes below `known` (of users, of items) stay however few interactions they have.
    Counts `duplicate_interaction`, `below_core` and, for a core under 3, `user_under_3_interactions` in `skipped`.

    Raises
    ------
    DatasetError
        `min_core` below 1, or nothing is left; the message then says which core would keep something.
    """
    if min_core < 1:
        raise DatasetError(f"--min_core {min_core}: must be 1 or more")
    kept = unique = first_interactions(users, items, timestamps, keep_repeats)
    skipped["duplicate_interaction"] += len(users) - len(kept)
    new_users, new_items = users >= known[0], items >= known[1]
    in_core = core(users[kept], items[kept], min_core * new_users[kept], min_core * new_items[kept])
    skipped["below_core"] += int((~in_core).sum())
    kept = kept[in_core]
    if min_core < LEAVE_ONE_OUT:
        long_enough = core(users[kept], items[kept], LEAVE_ONE_OUT * new_users[kept], min_core * new_items[kept])
        skipped["user_under_3_interactions"] += int((~long_enough).sum())
        kept = kept[long_enough]
    if not len(kept):
        raise DatasetError(_nothing_left(users, items, unique, min_core))
    order = np.lexsort((kept, timestamps[kept], users[kept]))
    return kept[order]


def _nothing_left(users: np.ndarray, items: np.ndarray, positions: np.ndarray, min_core: int) -> str:
    for smaller in range(min_core - 1, 0, -1):
        kept = int(core(users[positions], items[positions], max(smaller, LEAVE_ONE_OUT), smaller).sum())
        if kept:
            return f"--min_core {min_core} drops every interaction; --min_core {smaller} would keep {kept}"
    return (
        f"--min_core {min_core} drops every interaction, and so does 1: no user has {LEAVE_ONE_OUT} items; add reviews"
    )
