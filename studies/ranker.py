"""Ranks of right items from scores of all items: what `peers.py` ranks other libraries' models with.

    ranker = Ranker(known, n_items=12101, seed=1)
    ranker.in_catalog(score, histories, targets)    # score(columns of each history) are the scores of all known items

Equal scores are told apart at random by seed, and an item that training does not hold stands behind all others. It
needs NumPy alone, so that it runs in the other libraries' environment and in ours, where it is tested.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np


TIE_STREAM = 61
USERS_AT_ONCE = 512

# From histories, each the columns of its known items, oldest first, to scores [users, known items].
Score = Callable[[list[np.ndarray]], np.ndarray]


class Ranker:
    """Ranks of right items after histories, whatever scores them.

    Parameters
    ----------
    known : int64 array [known items]
        Item ids in the order of the scores' columns.
    n_items : int
        Items of the catalog; ids run from 1.
    seed : int
        Of the order in which equal scores stand.
    """

    def __init__(self, known: np.ndarray, n_items: int, seed: int):
        self.known, self.n_items = known, n_items
        self.column = np.full(n_items + 1, -1)
        self.column[known] = np.arange(len(known))
        self.place = np.random.default_rng([seed, TIE_STREAM]).permutation(n_items + 1)

    def _scores(self, score: Score, histories: Sequence[np.ndarray]) -> Iterator[tuple[slice, np.ndarray]]:
        """Scores of all items by id, float [users, n_items + 1], a batch of users at a time."""
        for start in range(0, len(histories), USERS_AT_ONCE):
            batch = [self.column[items] for items in histories[start : start + USERS_AT_ONCE]]
            scores = np.full((len(batch), self.n_items + 1), -np.inf)
            scores[:, self.known] = score([columns[columns >= 0] for columns in batch])
            scores[:, 0] = np.nan  # no item; a comparison with NaN is never true
            yield slice(start, start + len(batch)), scores

    def in_catalog(self, score: Score, histories: Sequence[np.ndarray], targets: np.ndarray) -> np.ndarray:
        """Rank of each target among all items but those of its history: float64 [users], infinite where it is one."""
        ranks = np.empty(len(histories))
        for part, scores in self._scores(score, histories):
            for row, items in enumerate(histories[part]):
                scores[row, items] = np.nan
            ranks[part] = self._ranks(scores, targets[part], np.arange(self.n_items + 1)[None])
        return ranks

    def among(
        self, score: Score, histories: Sequence[np.ndarray], targets: np.ndarray, negatives: np.ndarray
    ) -> np.ndarray:
        """Rank of each target among its negatives, int64 [users, negatives]: float64 [users]."""
        ranks = np.empty(len(histories))
        for part, scores in self._scores(score, histories):
            ranks[part] = self._ranks(scores, targets[part], negatives[part])
        return ranks

    def _ranks(self, scores: np.ndarray, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
        right = np.take_along_axis(scores, targets[:, None], axis=1)
        found = np.take_along_axis(scores, np.broadcast_to(others, (len(scores), others.shape[1])), axis=1)
        ahead = (found > right) | ((found == right) & (self.place[others] < self.place[targets][:, None]))
        return np.where(np.isnan(right[:, 0]), np.inf, 1 + ahead.sum(axis=1))
