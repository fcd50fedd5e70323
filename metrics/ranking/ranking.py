"""HR@k, NDCG@k and MRR of ranked lists with one right answer each, as an `evaluate` metric.

Use it, from the root of the repository, offline:

    evaluate.load("metrics/ranking").compute(predictions=[[3, 1, 2]], references=[1], k=[1, 5, 10])

`evaluate` reads the imports of this file line by line, so each import stands on a line of its own.
"""

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """\
Hit rate, normalized discounted cumulative gain and mean reciprocal rank of ranked lists of item ids, where each list
has exactly one relevant item (leave-one-out evaluation of recommenders). With one relevant item the ideal gain is 1,
so NDCG@k is 1 / log2(1 + rank) when the item stands within the first k places, else 0.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): ranked item ids of each query, best first. Lists may differ in length and may be
        empty. A list should hold no id twice: every occurrence of the relevant id is a hit, as in the reference
        implementation of RDRec, so repeats raise hr@k (mrr takes the first occurrence).
    references (list of int): the relevant item id of each query.
    k (list of int): cut-offs, 1 or more each. Defaults to [1, 5, 10].
Returns:
    hr@k, ndcg@k (float, a pair for each cut-off) and mrr (float, over whole lists), all means over queries.
Examples:
    >>> ranking = evaluate.load("metrics/ranking")
    >>> ranking.compute(predictions=[[3, 1, 2], []], references=[1, 7], k=[1, 5])
    {'hr@1': 0.0, 'ndcg@1': 0.0, 'hr@5': 0.5, 'ndcg@5': 0.31546487678572877, 'mrr': 0.25}
"""

_CITATION = """\
@article{jarvelin2002cumulated,
  title = {Cumulated gain-based evaluation of {IR} techniques},
  author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  journal = {ACM Transactions on Information Systems},
  volume = {20}, number = {4}, pages = {422--446}, year = {2002}
}
"""


def find_hits(rankings: list[list[int]], targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and the 1-based place of every occurrence of a row's target in its list: two int64 [hits].

    Hits come in order of row, then of place.
    """
    lengths = np.fromiter(map(len, rankings), dtype=np.int64, count=len(rankings))
    if not lengths.any():
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    row = np.repeat(np.arange(len(rankings)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + 1
    flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in rankings])
    hit = flat == np.asarray(targets, dtype=np.int64)[row]
    return row[hit], place[hit]


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Ranking(evaluate.Metric):
    """HR@k, NDCG@k and MRR with one relevant item a query."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("int64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add a batch of ranked lists and relevant ids; a ValueError if their numbers differ."""
        # Checked here, before anything is written: the base class would keep a writer open after its own error.
        if predictions is not None and references is not None and len(predictions) != len(references):
            raise ValueError(
                f"ranking: {len(predictions)} predictions but {len(references)} references; give one id for each list"
            )
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(
        self, predictions: list[list[int]], references: list[int], k: list[int] | tuple[int, ...] = (1, 5, 10)
    ) -> dict[str, float]:
        if not len(predictions):
            raise ValueError("ranking: nothing to score; give at least one ranked list and its relevant id")
        if not isinstance(k, (list, tuple)) or not k or any(not isinstance(c, int) or c < 1 for c in k):
            raise ValueError(f"ranking: k is {k!r}; give a list of whole numbers from 1, such as [1, 5, 10]")
        rows = len(predictions)
        row, place = find_hits(predictions, references)
        gain = 1.0 / np.log2(1.0 + place)
        scores = {}
        for cut in k:
            within = place <= cut
            hits = np.bincount(row[within], minlength=rows)
            # The best a row could gain has all its hits on top; without repeats that is one hit, of gain 1.
            ideal = np.concatenate([[1.0], np.cumsum(1.0 / np.log2(2.0 + np.arange(hits.max())))])
            scores[f"hr@{cut}"] = float(hits.mean())
            scores[f"ndcg@{cut}"] = float(
                (np.bincount(row[within], weights=gain[within], minlength=rows) / ideal[hits]).mean()
            )
        # np.unique returns the first index of each row, which is the target's best place.
        first = place[np.unique(row, return_index=True)[1]]
        scores["mrr"] = float((1.0 / first).sum() / rows)
        return scores
