"""Coverage, popularity, novelty and diversity of ranked lists, as an `evaluate` metric.

Use it, from the root of the repository, offline:

    metric = evaluate.load("metrics/beyond_accuracy")
    metric.compute(predictions=[[3, 1, 2]], popularity=[9, 1, 4], num_users=10, texts=["a", "b", "a b"], k=10)

`evaluate` reads the imports of this file line by line, so each import stands on a line of its own.
"""

import re

import datasets
import evaluate
import numpy as np


_DESCRIPTION = """\
What ranked lists of item ids are like besides being right: how much of the catalog they show (coverage), how popular
and how surprising the shown items are (popularity, novelty), and how unlike each other the items of one list are
(diversity).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of list of int): ranked item ids from 1 of each query, best first; may differ in length.
    popularity (list of int): training interactions of each item, that of item 1 first; its length is the catalog's.
    num_users (int): users of the training data.
    texts (list of str or None, optional): the text of each item, that of item 1 first. Without any there is no
        diversity in the result.
    k (int): so many items of each list count. Defaults to 10.
Returns:
    coverage@k: share of the catalog's items that stand in at least one list (Herlocker et al. 2004; Ge et al. 2010).
    popularity@k: mean number of training interactions of the shown items (average recommendation popularity, Yin et
        al. 2012), over lists of the mean over a list.
    novelty@k: mean self-information of the shown items in bits, -log2 of the share of users who bought the item (Zhou
        et al. 2010), where an item that nobody bought counts as bought once. Mean over lists of the mean over a list.
    diversity@k: mean over lists of 1 - cosine of the tf-idf vectors of two items' texts, averaged over all pairs of a
        list (intra-list diversity, Ziegler et al. 2005). Items without words are left out, and so are lists with
        fewer than two others.
Examples:
    >>> metric = evaluate.load("metrics/beyond_accuracy")
    >>> metric.compute(predictions=[[1, 2], [1, 3]], popularity=[8, 2, 1, 0], num_users=8, k=2)
    {'coverage@2': 0.75, 'popularity@2': 4.75, 'novelty@2': 1.25}
"""

_CITATION = """\
@article{herlocker2004evaluating,
  title = {Evaluating collaborative filtering recommender systems},
  author = {Herlocker, Jonathan L. and Konstan, Joseph A. and Terveen, Loren G. and Riedl, John T.},
  journal = {ACM Transactions on Information Systems}, volume = {22}, number = {1}, pages = {5--53}, year = {2004}
}
@inproceedings{ge2010beyond,
  title = {Beyond accuracy: evaluating recommender systems by coverage and serendipity},
  author = {Ge, Mouzhi and Delgado-Battenfeld, Carla and Jannach, Dietmar},
  booktitle = {RecSys}, pages = {257--260}, year = {2010}
}
@article{zhou2010solving,
  title = {Solving the apparent diversity-accuracy dilemma of recommender systems},
  author = {Zhou, Tao and Kuscsik, Zolt{\\'a}n and Liu, Jian-Guo and Medo, Mat{\\'u}{\\v{s}} and Wakeling,
            Joseph Rushton and Zhang, Yi-Cheng},
  journal = {PNAS}, volume = {107}, number = {10}, pages = {4511--4515}, year = {2010}
}
@article{yin2012challenging,
  title = {Challenging the long tail recommendation},
  author = {Yin, Hongzhi and Cui, Bin and Li, Jing and Yao, Junjie and Chen, Chen},
  journal = {PVLDB}, volume = {5}, number = {9}, pages = {896--907}, year = {2012}
}
@inproceedings{ziegler2005improving,
  title = {Improving recommendation lists through topic diversification},
  author = {Ziegler, Cai-Nicolas and McNee, Sean M. and Konstan, Joseph A. and Lausen, Georg},
  booktitle = {WWW}, pages = {22--32}, year = {2005}
}
"""

LISTS_AT_ONCE = 2048  # bounds the memory of the words of many long texts


def text_vectors(texts: list[str | None]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each text as a tf-idf vector of length 1: (offsets int64 [texts + 1], words int64 and weights float64 [entries]).

    A word weighs its count in the text times log(texts / texts that have it); what every text has weighs nothing.
    """
    vocabulary: dict[str, int] = {}
    rows = [[vocabulary.setdefault(w, len(vocabulary)) for w in re.findall(r"\w+", (t or "").lower())] for t in texts]
    found = [np.unique(np.array(row, dtype=np.int64), return_counts=True) for row in rows]
    lengths = np.array([len(words) for words, _ in found])
    words = np.concatenate([words for words, _ in found])
    weights = (
        np.concatenate([counts for _, counts in found])
        * np.log(len(texts) / np.maximum(np.bincount(words, minlength=len(vocabulary)), 1))[words]
    )
    text = np.repeat(np.arange(len(texts)), lengths)
    norms = np.sqrt(np.bincount(text, weights=weights**2, minlength=len(texts)))
    kept = norms[text] > 0
    offsets = np.concatenate([[0], np.cumsum(np.bincount(text[kept], minlength=len(texts)))])
    return offsets, words[kept], (weights / np.where(norms > 0, norms, 1)[text])[kept]


def mean_distances(row: np.ndarray, item: np.ndarray, vectors, rows: int) -> np.ndarray:
    """Mean of 1 - cosine over all pairs of each row's items: float64 [rows], NaN where fewer than two have words.

    Parameters
    ----------
    row, item : int64 arrays [shown]
        Row of each shown item, ascending, and the item, from 0.
    vectors : tuple
        As `text_vectors` returns them.
    """
    offsets, words, weights = vectors
    lengths = offsets[item + 1] - offsets[item]
    row, item, lengths = row[lengths > 0], item[lengths > 0], lengths[lengths > 0]
    entry = np.arange(lengths.sum()) + np.repeat(offsets[item] - (np.cumsum(lengths) - lengths), lengths)
    # The vectors of a row are added up; the square of the sum holds every pair twice and every item with itself once.
    width = int(words.max(initial=0)) + 1
    keys, place = np.unique(np.repeat(row, lengths) * width + words[entry], return_inverse=True)
    sums = np.bincount(place, weights=weights[entry], minlength=len(keys))
    squares = np.bincount(keys // width, weights=sums**2, minlength=rows)
    counts = np.bincount(row, minlength=rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 1, 1 - (squares - counts) / (counts * (counts - 1)), np.nan)


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BeyondAccuracy(evaluate.Metric):
    """Coverage, popularity, novelty and diversity of ranked lists."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("int64"))}),
        )

    def _compute(
        self,
        predictions: list[list[int]],
        popularity: list[int],
        num_users: int,
        texts: list[str | None] | None = None,
        k: int = 10,
    ) -> dict[str, float]:
        popularity = np.asarray(popularity)
        lists = [np.asarray(ids, dtype=np.int64)[:k] for ids in predictions]
        shown = np.concatenate([np.empty(0, dtype=np.int64), *lists])
        if not len(shown):
            raise ValueError("beyond_accuracy: nothing to score; give at least one list with an item")
        if not isinstance(k, int) or k < 1:
            raise ValueError(f"beyond_accuracy: k is {k!r}; give a whole number from 1")
        if shown.min() < 1 or shown.max() > len(popularity) or (texts is not None and len(texts) != len(popularity)):
            raise ValueError(
                f"beyond_accuracy: ids from {shown.min()} to {shown.max()}, popularity of {len(popularity)} items, "
                f"texts of {'none' if texts is None else len(texts)}; give one of each for every item from 1"
            )
        lengths = np.array([len(ids) for ids in lists])
        row, item = np.repeat(np.arange(len(lists)), lengths), shown - 1
        count = popularity[item]
        filled = lengths > 0

        def mean(values: np.ndarray) -> float:
            sums = np.bincount(row, weights=values, minlength=len(lists))
            return float((sums[filled] / lengths[filled]).mean())

        scores = {
            f"coverage@{k}": len(np.unique(item)) / len(popularity),
            f"popularity@{k}": mean(count),
            f"novelty@{k}": mean(-np.log2(np.maximum(count, 1) / num_users)),
        }
        if texts is not None and any(texts):
            vectors = text_vectors(texts)
            distances = []
            for start in range(0, len(lists), LISTS_AT_ONCE):
                low, high = np.searchsorted(row, [start, start + LISTS_AT_ONCE])
                size = min(LISTS_AT_ONCE, len(lists) - start)
                distances.append(mean_distances(row[low:high] - start, item[low:high], vectors, size))
            distances = np.concatenate(distances)
            if not np.isnan(distances).all():
                scores[f"diversity@{k}"] = float(np.nanmean(distances))
        return scores
