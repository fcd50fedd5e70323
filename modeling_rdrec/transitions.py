"""Counted transitions: what followed what in the training parts, as a prior beside a checkpoint.

    counts = Transitions.count(training_parts, num_items=12101)
    counts.save("runs/beauty/catalog_transitions.npy")
    counts.weighted(histories)              # [users, items]: how often each item followed a user's last items

A model that has seen few purchases knows less about rare items than their plain counts do; at search time the two are
multiplied: log p(item) + w * log(count + o), with w and o chosen on validation (`RDRecConfig.prior_weight`).
"""

import os
from collections.abc import Sequence

import numpy as np


# A history's last ten items count, each step back in time 0.7 of the one after it.
LAST_ITEMS, STEP_BACK = 10, 0.7
# The prior counts items up to three steps apart, each further step 0.6 of the one before.
WINDOW, STEP_APART = 3, 0.6
# A new item has as many neighbours, the most similar items; it counts as having followed each of them
# LIKENESS * similarity ** 2 times.
NEIGHBOURS, LIKENESS = 20, 3.0
DIGITS = 9  # behind the point of a weighted count, so that sums of the same numbers in another order tie as they should
FULL = 0.1  # with more pairs than this share of the table, summing in the table is faster than sorting the pairs
EDGE = np.dtype([("item", "<i4"), ("follower", "<i4"), ("count", "<f4")])


class Transitions:
    """How often item b stood after item a.

    Parameters
    ----------
    edges : np.ndarray
        Of type `EDGE` `[pairs]`: a, b and the count, sorted by a, then b; items count from 1.
    num_items : int
        Items of the catalog; those that were never bought have no pair.
    """

    def __init__(self, edges: np.ndarray, num_items: int):
        self.edges, self.num_items = edges, num_items
        # The followers of a stand at first[a] : first[a + 1].
        self.first = np.searchsorted(edges["item"], np.arange(num_items + 2))

    @classmethod
    def count(cls, sequences: Sequence[np.ndarray], num_items: int, window: int = WINDOW) -> "Transitions":
        """Count what follows what in sequences of item ids, oldest first (int64 `[length]` each).

        Parameters
        ----------
        window : int
            How many steps apart two items may stand; 1: neighbours only.
        """
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        rows = np.repeat(np.arange(len(sequences)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *sequences]).astype(np.int64)
        before, after, counts = [], [], []
        for apart in range(1, window + 1):
            inside = rows[apart:] == rows[:-apart]
            before.append(items[:-apart][inside])
            after.append(items[apart:][inside])
            counts.append(np.full(len(before[-1]), STEP_APART ** (apart - 1)))
        return cls(_summed(np.concatenate(before), np.concatenate(after), np.concatenate(counts)), num_items)

    def with_items(self, neighbours: np.ndarray, likeness: np.ndarray) -> "Transitions":
        """These counts and what is to be expected of new items, numbered after the known ones.

        A new item has followed nothing yet. It is given the average of what its neighbours followed, weighted by how
        similar they are, and is expected after the neighbours themselves.

        Parameters
        ----------
        neighbours : int64 `[new items, neighbours]`
            The most similar known items of each new item.
        likeness : float `[new items, neighbours]`
            How similar they are, from 0 to 1.
        """
        count, many = neighbours.shape
        new = np.repeat(np.arange(self.num_items + 1, self.num_items + 1 + count), many)
        near, alike = neighbours.ravel().astype(np.int64), likeness.ravel().astype(np.float64)
        share = (likeness / np.maximum(likeness.sum(1, keepdims=True), 1e-12)).ravel()
        # What each neighbour followed.
        order = np.argsort(self.edges["follower"], kind="stable")
        starts = np.searchsorted(self.edges["follower"][order], np.arange(self.num_items + 2))
        fans = starts[near + 1] - starts[near]
        entry = np.repeat(np.arange(len(near)), fans)
        lent = self.edges[order[np.arange(len(entry)) - np.repeat(np.cumsum(fans) - fans, fans) + starts[near][entry]]]
        expected = _summed(
            np.concatenate([lent["item"], near]),
            np.concatenate([new[entry], new]),
            np.concatenate([lent["count"] * share[entry], LIKENESS * alike**2]),
        )
        edges = np.concatenate([self.edges, expected])
        return Transitions(edges[np.lexsort((edges["follower"], edges["item"]))], self.num_items + count)

    def entries(
        self, histories: Sequence[np.ndarray], step_back: float = STEP_BACK
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What followed the items of each history.

        Parameters
        ----------
        histories : sequence of np.ndarray
            Item ids, oldest first, possibly none: int64 `[length]` each; every item of them counts.
        step_back : float
            What an item counts, compared with the one after it in its history.

        Returns
        -------
        rows, items, counts : np.ndarray
            int64, int64, float64 `[entries]`: the history, an item, and the weighted count above 0; sorted by history,
            then item.
        """
        cells, counts = _sorted_sums(*self._cells(histories, step_back))
        return cells // self.num_items, cells % self.num_items + 1, counts

    def weighted(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """The weighted count of every item after each history's last ten: float32 `[histories, num_items]`, the count
        of item n in column n - 1."""
        recent = [np.asarray(history, dtype=np.int64)[-LAST_ITEMS:] for history in histories]
        cells, counts = self._cells(recent, STEP_BACK)
        size = len(histories) * self.num_items
        if len(cells) > FULL * size:
            dense = np.round(np.bincount(cells, counts, minlength=size), DIGITS).astype(np.float32)
        else:
            cells, counts = _sorted_sums(cells, counts)
            dense = np.zeros(size, dtype=np.float32)
            dense[cells] = counts
        return dense.reshape(len(histories), self.num_items)

    def _cells(self, histories: Sequence[np.ndarray], step_back: float) -> tuple[np.ndarray, np.ndarray]:
        """What followed each item of each history, not summed up: its place in a table `[histories, num_items]`, row by
        row, and its weighted count, int64 and float64 `[pairs]`."""
        lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))
        rows = np.repeat(np.arange(len(histories)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *histories]).astype(np.int64)
        weights = step_back ** (np.cumsum(lengths)[rows] - 1 - np.arange(len(rows)))
        fans = self.first[items + 1] - self.first[items]
        entry = np.repeat(np.arange(len(rows)), fans)
        edge = np.arange(len(entry)) - np.repeat(np.cumsum(fans) - fans, fans) + self.first[items][entry]
        cells = rows[entry] * self.num_items + self.edges["follower"][edge] - 1
        return cells, weights[entry] * self.edges["count"][edge]

    def save(self, path: str | os.PathLike) -> None:
        """Write the pairs as one `.npy` file; an entry before them holds the number of items."""
        np.save(path, np.concatenate([np.array([(self.num_items, 0, 0)], dtype=EDGE), self.edges]))

    @classmethod
    def load(cls, path: str | os.PathLike, num_items: int | None = None) -> "Transitions":
        """Read a saved file, which must be of a catalog of `num_items`, if given.

        Raises
        ------
        ValueError
            For a file that holds no transitions.
        """
        try:
            stored = np.load(path, allow_pickle=False)
        except Exception as error:  # a damaged header can fail in any way
            raise ValueError(f"{path}: no transitions ({error}): get it anew, or set prior_weight 0") from error
        if stored.dtype != EDGE or stored.ndim != 1 or len(stored) < 1:
            raise ValueError(f"{path}: no transitions ({stored.dtype} {stored.shape}): get it anew")
        edges, count = stored[1:], int(stored["item"][0])
        if num_items is not None and count != num_items:
            raise ValueError(f"{path}: transitions of {count} items, the catalog has {num_items}: get it anew")
        known = all(((edges[name] >= 1) & (edges[name] <= count)).all() for name in ("item", "follower"))
        if not known or (np.diff(edges["item"]) < 0).any() or not np.isfinite(edges["count"]).all():
            raise ValueError(f"{path}: transitions of items that are none, or in no order: get it anew")
        return cls(edges, count)


def _sorted_sums(cells: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each cell once, ascending, and the sum of its counts."""
    cells, where = np.unique(cells, return_inverse=True)
    return cells, np.round(np.bincount(where, counts, minlength=len(cells)), DIGITS)


def _summed(items: np.ndarray, followers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pairs, each once with the sum of its counts above 0, sorted: of type `EDGE`."""
    width = int(followers.max(initial=0)) + 1
    pairs, where = np.unique(items.astype(np.int64) * width + followers, return_inverse=True)
    edges = np.empty(len(pairs), dtype=EDGE)
    edges["item"], edges["follower"] = np.divmod(pairs, width)
    edges["count"] = np.bincount(where, counts, minlength=len(pairs))
    return edges[edges["count"] > 0]


__all__ = ["NEIGHBOURS", "Transitions"]
