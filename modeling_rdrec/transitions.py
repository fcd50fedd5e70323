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


class Transitions:
    """How often item b stood right after item a.

    Parameters
    ----------
    edges : np.ndarray
        int32 `[3, pairs]`: a, b and the count, sorted by a, then b; items count from 1.
    num_items : int
        Items of the catalog; those that were never bought have no pair.
    """

    def __init__(self, edges: np.ndarray, num_items: int):
        self.edges, self.num_items = edges, num_items
        # The followers of a stand at first[a] : first[a + 1].
        self.first = np.searchsorted(edges[0], np.arange(num_items + 2))

    @classmethod
    def count(cls, sequences: Sequence[np.ndarray], num_items: int) -> "Transitions":
        """Count the neighbours in sequences of item ids, oldest first (int64 `[length]` each)."""
        lengths = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
        rows = np.repeat(np.arange(len(sequences)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *sequences]).astype(np.int64)
        inside = rows[1:] == rows[:-1]
        pairs, counts = np.unique(items[:-1][inside] * (num_items + 1) + items[1:][inside], return_counts=True)
        return cls(np.stack([*np.divmod(pairs, num_items + 1), counts]).astype(np.int32), num_items)

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
        lengths = np.fromiter(map(len, histories), dtype=np.int64, count=len(histories))
        rows = np.repeat(np.arange(len(histories)), lengths)
        items = np.concatenate([np.zeros(0, dtype=np.int64), *histories]).astype(np.int64)
        weights = step_back ** (np.cumsum(lengths)[rows] - 1 - np.arange(len(rows)))
        fans = self.first[items + 1] - self.first[items]
        entry = np.repeat(np.arange(len(rows)), fans)
        edge = np.arange(len(entry)) - np.repeat(np.cumsum(fans) - fans, fans) + self.first[items][entry]
        width = self.num_items + 1
        key, where = np.unique(rows[entry] * width + self.edges[1][edge], return_inverse=True)
        # Rounded, so that sums of the same numbers in another order tie as they should.
        counts = np.round(np.bincount(where, weights[entry] * self.edges[2][edge], minlength=len(key)), 9)
        return key // width, key % width, counts

    def weighted(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """The weighted count of every item after each history's last ten: float32 `[histories, num_items]`, the count
        of item n in column n - 1."""
        recent = [np.asarray(history, dtype=np.int64)[-LAST_ITEMS:] for history in histories]
        # Items added to the catalog after the counting have followed nothing.
        rows, items, counts = self.entries([items[items <= self.num_items] for items in recent])
        dense = np.zeros((len(histories), self.num_items), dtype=np.float32)
        dense[rows, items - 1] = counts
        return dense

    def save(self, path: str | os.PathLike) -> None:
        """Write the pairs, and the number of items before them, as one `.npy` file."""
        np.save(path, np.concatenate([[[self.num_items], [0], [0]], self.edges], axis=1).astype(np.int32))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Transitions":
        """Read a saved file.

        Raises
        ------
        ValueError
            For a file that holds no transitions.
        """
        try:
            stored = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path}: no transitions ({error}): get it anew, or set prior_weight 0") from error
        if stored.dtype != np.int32 or stored.ndim != 2 or stored.shape[0] != 3 or stored.shape[1] < 1:
            raise ValueError(f"{path}: no transitions ({stored.dtype} {stored.shape}): get it anew")
        return cls(stored[:, 1:], int(stored[0, 0]))


__all__ = ["Transitions"]
