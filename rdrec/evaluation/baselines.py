"""Baselines that learn nothing: random, popularity, and transitions (what followed what in training).

    data = TaskData(load_tables("data/beauty"))
    ranks = rank_sequential(data.sequences, "test", "transitions", data.num_items, untested=data.untested)

The transitions baseline is the honest bar for a learned sequential model. It counts how often item b stands right
after item a in the training parts (all but the last two items of each user, and all items of users of whom nothing is
held out) and adds these counts over the user's last ten items, each step back in time weighing 0.7 of the one before;
ties go to the more popular item, then by seed. For top-N the user's training items take the place of the last ten: all
of them, and all alike, which is the reading that comes closest to the design's figures. Popularity is the number of
training interactions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modeling_rdrec.transitions import LAST_ITEMS, STEP_BACK, Transitions


METHODS = ("random", "popularity", "transitions")
HELD_OUT = {"validation": 2, "test": 1}  # the target is that many from the end of a sequence

TIE_STREAM, RANDOM_STREAM = 0, 1


class Scores(NamedTuple):
    """Scores above zero, sparse: three arrays [entries], sorted by `key`; every pair that is absent scores 0."""

    key: np.ndarray  # int64, row * (n_items + 1) + item
    row: np.ndarray  # int64
    value: np.ndarray  # float64


def rank_sequential(
    sequences: Sequence[np.ndarray],
    split: str,
    method: str,
    n_items: int,
    seed: int = 0,
    untested: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Rank each user's target among all items but those of the user's history.

    Parameters
    ----------
    sequences : sequence of np.ndarray
        Items of each user, oldest first, ids from 1: int64 [length], at least 3 long, no item twice.
    split : str
        "test" (target: the last item, history: all before it) or "validation" (the last but one).
    method : str
        "random", "popularity" or "transitions".
    n_items : int
        Number of items; ids are 1 to n_items.
    seed : int
        Seed of the random ranking and of the last tie-break.
    untested : sequence of np.ndarray
        Items of users of whom nothing is held out: they are counted and not ranked for.

    Returns
    -------
    np.ndarray
        Rank of each target from 1: int64 [users].

    Raises
    ------
    ValueError
        Unknown method or split, a sequence too short, an item out of range.
    """
    _check(sequences, split, method, n_items)
    cut = HELD_OUT[split]
    histories = [items[:-cut] for items in sequences]
    targets = np.array([items[-cut] for items in sequences], dtype=np.int64)
    history_rows, history_items = _flatten(histories)
    users = len(sequences)
    if method == "random":
        left = n_items - np.bincount(history_rows, minlength=users)
        rng = np.random.default_rng([seed, RANDOM_STREAM, cut])
        return rng.integers(1, left + 1)

    training = [*(items[:-2] for items in sequences), *untested]
    place = _popularity_places(training, n_items, seed)
    if method == "popularity":
        scores = _no_scores()
    else:
        scores = _transition_scores(training, [items[-LAST_ITEMS:] for items in histories], n_items, STEP_BACK)
    width = n_items + 1
    history_keys = np.unique(history_rows * width + history_items)
    open_ = ~_contains(history_keys, scores.key)
    scores = Scores(scores.key[open_], scores.row[open_], scores.value[open_])
    entry_items = scores.key % width

    target_scores = _look_up(scores, np.arange(users) * width + targets)
    target_places = place[targets]
    against, at = target_scores[scores.row], place[entry_items] < target_places[scores.row]
    ahead = (scores.value > against) | ((scores.value == against) & at)
    ranks = 1 + np.bincount(scores.row[ahead], minlength=users)
    # A target that scores 0 stands below all entries, then competes by popularity with the other items that score 0:
    # all items above its place, but for those of the history and those counted already.
    zero = target_scores == 0.0
    counted = np.bincount(scores.row[at], minlength=users)
    bought = np.bincount(
        history_keys[place[history_keys % width] < target_places[history_keys // width]] // width, minlength=users
    )
    ranks[zero] += (target_places - counted - bought)[zero]
    return ranks


def rank_candidates(
    sequences: Sequence[np.ndarray],
    users: np.ndarray,
    positives: np.ndarray,
    negatives: np.ndarray,
    method: str,
    n_items: int,
    seed: int = 0,
    split: str = "test",
    untested: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Rank each positive among its negatives.

    Parameters
    ----------
    sequences : sequence of np.ndarray
        As for `rank_sequential`; user id u has `sequences[u - 1]`. Only training parts are looked at.
    users, positives : np.ndarray
        User id (from 1) and right item of each query: int64 [queries].
    negatives : np.ndarray
        Sampled items of each query: int64 [queries, 99].
    method : str
        "random", "popularity" or "transitions".
    n_items, seed, untested
        As for `rank_sequential`.
    split : str
        Which split the queries are of; sets the stream of the random ranking.

    Returns
    -------
    np.ndarray
        Rank of each positive from 1: int64 [queries].

    Raises
    ------
    ValueError
        As `rank_sequential`; or shapes that do not fit each other.
    """
    _check(sequences, split, method, n_items)
    users, positives, negatives = (np.asarray(array, dtype=np.int64) for array in (users, positives, negatives))
    if positives.shape != users.shape or negatives.ndim != 2 or len(negatives) != len(users):
        raise ValueError(
            f"candidates: {len(users)} users, positives {positives.shape}, negatives {negatives.shape}; "
            "give one positive and one row of negatives for each user"
        )
    if method == "random":
        rng = np.random.default_rng([seed, RANDOM_STREAM, HELD_OUT[split]])
        return rng.integers(1, negatives.shape[1] + 2, size=len(users))

    training = [*(items[:-2] for items in sequences), *untested]
    place = _popularity_places(training, n_items, seed)
    if method == "popularity":
        scores = _no_scores()
    else:
        scores = _transition_scores(training, training[: len(sequences)], n_items, 1.0)
    rows = (users - 1) * (n_items + 1)
    right = _look_up(scores, rows + positives)[:, None]
    others = _look_up(scores, (rows[:, None] + negatives).ravel()).reshape(negatives.shape)
    ahead = (others > right) | ((others == right) & (place[negatives] < place[positives][:, None]))
    return 1 + ahead.sum(axis=1)


def _check(sequences: Sequence[np.ndarray], split: str, method: str, n_items: int) -> None:
    if method not in METHODS:
        raise ValueError(f"baseline {method!r}: unknown; take one of {', '.join(METHODS)}")
    if split not in HELD_OUT:
        raise ValueError(f"split {split!r}: unknown; take one of {', '.join(HELD_OUT)}")
    for row, items in enumerate(sequences):
        if len(items) < 3:
            raise ValueError(f"sequence {row}: {len(items)} items; leave-one-out needs at least 3")
    flat = np.concatenate(sequences)
    if flat.min() < 1 or flat.max() > n_items:
        raise ValueError(f"sequences: item ids run from {flat.min()} to {flat.max()}, not within 1 to {n_items}")


def _flatten(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the value of every element, in order: two int64 [elements]."""
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return np.repeat(np.arange(len(parts)), lengths), np.concatenate(parts).astype(np.int64)


def _popularity_places(training: Sequence[np.ndarray], n_items: int, seed: int) -> np.ndarray:
    """Place of each item by popularity in the training parts, 0 the best, ties at random: int64 [n_items + 1]."""
    _, items = _flatten(training)
    counts = np.bincount(items, minlength=n_items + 1)[1:]
    tie = np.random.default_rng([seed, TIE_STREAM]).permutation(n_items)
    place = np.empty(n_items + 1, dtype=np.int64)
    place[0] = n_items  # no item has id 0
    place[1 + np.lexsort((tie, -counts))] = np.arange(n_items)
    return place


def _no_scores() -> Scores:
    return Scores(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def _transition_scores(
    training: Sequence[np.ndarray], histories: Sequence[np.ndarray], n_items: int, step_back: float
) -> Scores:
    """Sum, over each row of `histories`, step_back^(steps back) times how often each item followed its items."""
    counts = Transitions.count(training, n_items, window=1)
    rows, items, values = counts.entries(histories, step_back)
    return Scores(rows * (n_items + 1) + items, rows, values)


def _contains(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether each of `keys` is in `sorted_keys`: bool [keys]."""
    if not len(sorted_keys):
        return np.zeros(len(keys), dtype=bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return sorted_keys[at] == keys


def _look_up(scores: Scores, keys: np.ndarray) -> np.ndarray:
    """The score of each (row, item) key, 0 where there is none: float64 [keys]."""
    found = _contains(scores.key, keys)
    values = np.zeros(len(keys))
    values[found] = scores.value[np.searchsorted(scores.key, keys[found])]
    return values
