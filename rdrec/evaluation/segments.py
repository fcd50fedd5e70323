"""The same answers by kind of query: how long the history is, how popular the right item, how long the review.

    kinds = segments(data, "test", users, targets)      # {"history": array(["6 to 10 items", …]), …}
    by_segment(ranks, kinds)["item"]["tail"]            # {"queries": 310, "hr@10": …, "ndcg@10": …}

These are where a recommender of this kind fails (so the paper says of its own): it follows early purchases rather than
recent ones, and misses popular items. Popularity follows Abdollahpouri et al., "User-centered evaluation of popularity
bias in recommender systems" (UMAP 2021): head are the fewest items that hold a fifth of the training interactions, tail
the most that hold another fifth, middle is between; new is what training does not have.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rdrec.tasks.data import TaskData
from rdrec.tasks.scores import hit_and_ndcg

from .baselines import HELD_OUT


HISTORY_STEPS, REVIEW_STEPS = (5, 10, 20), (10, 20)
SHARE_OF_HEAD, SHARE_OF_TAIL = 0.2, 0.2
CUT = 10


def training_counts(data: TaskData) -> np.ndarray:
    """Training interactions of each item, that of item 1 first: int64 [items]."""
    return np.bincount(np.concatenate(data.histories()), minlength=data.num_items + 1)[1:]


def popularity_segments(counts: np.ndarray) -> np.ndarray:
    """ "head", "middle", "tail" or "new" for each item: str [items]; equal counts are told apart by id."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]  # interactions of the more popular items
    total = counts.sum()
    labels = np.full(len(counts), "middle", dtype=object)
    labels[order[before >= (1 - SHARE_OF_TAIL) * total]] = "tail"
    labels[order[before < SHARE_OF_HEAD * total]] = "head"
    labels[counts == 0] = "new"
    return labels


def length_segments(lengths: Sequence[int], steps: Sequence[int], unit: str) -> np.ndarray:
    """ "up to 5 items", "6 to 10 items", …, "over 20 items" for each length: str [lengths]."""
    names = [f"up to {steps[0]} {unit}"]
    names += [f"{low + 1} to {high} {unit}" for low, high in zip(steps, steps[1:])] + [f"over {steps[-1]} {unit}"]
    return np.array(names, dtype=object)[np.searchsorted(steps, lengths)]


def review_lengths(sentences: Sequence[str | None]) -> np.ndarray:
    """The segment of each sentence by its words; "no review" where there is none."""
    lengths = [len((sentence or "").split()) for sentence in sentences]
    return np.where([bool(s) for s in sentences], length_segments(lengths, REVIEW_STEPS, "words"), "no review")


def segments(data: TaskData, split: str, users: Sequence[int], targets: Sequence[int]) -> dict[str, np.ndarray]:
    """The segment of each query by "history", "item" and, where the dataset has texts, "review".

    Parameters
    ----------
    users, targets : sequences of int [queries]
        User and right item, ids from 1.

    Returns
    -------
    dict of str to object array [queries]
        "review" goes by the words of the sentence that the dataset keeps of the right item's own review.
    """
    lengths = [len(data.sequences[user - 1]) - HELD_OUT[split] for user in users]
    kinds = {
        "history": length_segments(lengths, HISTORY_STEPS, "items"),
        "item": popularity_segments(training_counts(data))[np.asarray(targets) - 1],
    }
    sentences = {
        pair: sentence
        for texts in data.texts.values()
        for *pair, sentence in zip(texts.user, texts.item, texts.explanation)
        for pair in [tuple(pair)]
    }
    if sentences:
        kinds["review"] = review_lengths([sentences.get(pair) for pair in zip(users, targets)])
    return kinds


def by_segment(ranks: np.ndarray, kinds: Mapping[str, np.ndarray]) -> dict[str, dict[str, dict[str, float]]]:
    """Queries, HR@10 and NDCG@10 by kind and segment, of ranks from 1 (float64 [queries], infinite where not found)."""
    found = {}
    for kind, labels in kinds.items():
        parts = {label: ranks[labels == label] for label in in_order(labels)}
        found[kind] = {label: {"queries": len(part), **hit_and_ndcg(part, [CUT])} for label, part in parts.items()}
    return found


def in_order(labels: Sequence[str]) -> list[str]:
    """The segments among the labels, in the order of what they count: from short to long, from popular to new."""
    first = ("head", "middle", "tail", "new", "no review")

    def place(label: str) -> int:
        return first.index(label) - len(first) if label in first else int(label.split()[-2]) + label.startswith("over")

    return sorted(set(labels), key=place)
