"""Hit ratio and NDCG of ranks, as `metrics/ranking` computes them.

hit_and_ndcg(np.array([1, 4, 30]), [5, 10])      # {"hr@5": .667, "ndcg@5": .477, "hr@10": …, "ndcg@10": …}
"""

from collections.abc import Sequence

import numpy as np


def hit_and_ndcg(ranks: np.ndarray, ks: Sequence[int]) -> dict[str, float]:
    """`hr@k` and `ndcg@k` of ranks from 1 (`[queries]`; infinite where the item was not found)."""
    scores = {}
    for k in ks:
        scores[f"hr@{k}"] = float((ranks <= k).mean())
        scores[f"ndcg@{k}"] = float(np.where(ranks <= k, 1.0 / np.log2(1.0 + ranks), 0.0).mean())
    return scores
