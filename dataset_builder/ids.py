"""Integer ids, dense from 1.

`published` numbers users and items by first appearance over whole sequences, test items included, as the paper's
data does; then "the last id plus one" is a good guess of the next item, which is a leak. `clean` draws the ids at
random. A build that extends another keeps its ids and puts the new ones after them.
"""

import numpy as np


USER_ID_STREAM = 11
ITEM_ID_STREAM = 12


def first_appearance(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct values of `codes` from 0 in the order in which they first appear.

    Parameters
    ----------
    codes : int64 array of shape [n]

    Returns
    -------
    numbers : int64 array of shape [n]
    values : array of shape [number of distinct values]
        The value that each number stands for.
    """
    values, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[inverse.reshape(-1)], values[order]


def continued_ids(codes: np.ndarray, known: int, protocol: str, seed: int, stream: int) -> np.ndarray:
    """Ids from 1 of distinct `codes` in order of first appearance, as an int64 array like it.

    A code below `known` has an id already, code + 1; the others follow, drawn among themselves (see `drawn_ids`).
    """
    ids = codes + 1
    is_new = codes >= known
    ids[is_new] = known + drawn_ids(int(is_new.sum()), protocol, seed, stream)
    return ids


def drawn_ids(count: int, protocol: str, seed: int, stream: int) -> np.ndarray:
    """Ids 1..count of the values numbered 0..count-1 by first appearance: at random under `clean`, else in order."""
    if protocol == "clean":
        return np.random.default_rng([seed, stream]).permutation(count) + 1
    return np.arange(1, count + 1)
