"""The baselines that learn nothing: by hand, against a slow version, and against the design's table.

pytest tests/evaluation/test_baselines.py
"""

import gzip

import numpy as np
import pytest

from rdrec.evaluation.baselines import rank_candidates, rank_sequential
from rdrec.tasks.scores import hit_and_ndcg


def world(users: int = 120, items: int = 40, seed: int = 5) -> tuple[list[np.ndarray], int]:
    rng = np.random.default_rng(seed)
    skewed = np.arange(items, 0, -1) / np.arange(items, 0, -1).sum()
    return [
        1 + rng.choice(items, size=rng.integers(3, 18), replace=False, p=skewed).astype(np.int64) for _ in range(users)
    ], items


def slow_scores(sequences, recent, n_items, step_back):
    """The definition, word for word: what followed what, summed over `recent`, newest first weighing 1."""
    counts = np.zeros((n_items + 1, n_items + 1))
    for items in sequences:
        for a, b in zip(items[:-3], items[1:-2], strict=True):
            counts[a, b] += 1
    scores = np.zeros(n_items + 1)
    for back, item in enumerate(recent[::-1]):
        scores += step_back**back * counts[item]
    return scores.round(9)


def popularity(sequences, n_items):
    return np.bincount(np.concatenate([items[:-2] for items in sequences]), minlength=n_items + 1)


def bounds(scores, counts, target, rivals):
    """The best and worst rank the target may have: ties of score and popularity are left to the seed."""
    key = list(zip(scores[rivals], counts[rivals], strict=True))
    own = (scores[target], counts[target])
    return 1 + sum(k > own for k in key), 1 + sum(k >= own for k in key)


@pytest.mark.parametrize("split, cut", [("test", 1), ("validation", 2)])
@pytest.mark.parametrize("method", ["popularity", "transitions"])
def test_sequential_follows_the_definition(method, split, cut):
    sequences, n_items = world()
    ranks = rank_sequential(sequences, split, method, n_items, seed=3)
    counts = popularity(sequences, n_items)
    for items, rank in zip(sequences, ranks, strict=True):
        history, target = items[:-cut], items[-cut]
        scores = slow_scores(sequences, history[-10:], n_items, 0.7) if method == "transitions" else 0.0 * counts
        rivals = np.setdiff1d(np.arange(1, n_items + 1), np.append(history, target))
        low, high = bounds(scores, counts, target, rivals)
        assert low <= rank <= high


@pytest.mark.parametrize("method", ["popularity", "transitions"])
def test_candidates_follow_the_definition(method):
    sequences, n_items = world()
    rng = np.random.default_rng(0)
    users = rng.permutation(len(sequences))[:50] + 1
    positives = np.array([sequences[user - 1][-1] for user in users])
    negatives = np.array(
        [rng.choice(np.setdiff1d(np.arange(1, n_items + 1), sequences[user - 1]), 15, replace=False) for user in users]
    )
    ranks = rank_candidates(sequences, users, positives, negatives, method, n_items, seed=1)
    counts = popularity(sequences, n_items)
    for user, positive, rivals, rank in zip(users, positives, negatives, ranks, strict=True):
        recent = sequences[user - 1][:-2]
        scores = slow_scores(sequences, recent, n_items, 1.0) if method == "transitions" else 0.0 * counts
        low, high = bounds(scores, counts, positive, rivals)
        assert low <= rank <= high


def test_ties_are_broken_by_seed_and_evenly():
    # Every item is equally popular and nothing follows anything twice alike, so only the seed decides.
    sequences = [np.array([1, 2, 3]), np.array([4, 5, 6])]
    ranks = np.array([rank_sequential(sequences, "test", "transitions", 203, seed) for seed in range(60)])
    assert len(np.unique(ranks)) > 50
    # Two items of 203 are bought, and one training item stands ahead: ranks 2 to 201, whose mean is near 101.
    assert ranks.min() >= 2 and ranks.max() <= 201 and 80 < ranks.mean() < 122
    assert (ranks[7] == rank_sequential(sequences, "test", "transitions", 203, 7)).all()


def test_random_is_uniform_over_what_is_left():
    sequences = [np.arange(1, 12)] * 3000
    ranks = rank_sequential(sequences, "test", "random", 20, seed=0)
    assert ranks.min() == 1 and ranks.max() == 10 and abs(ranks.mean() - 5.5) < 0.2
    negatives = np.tile(np.arange(12, 21), (3000, 1))
    ranks = rank_candidates(sequences, np.arange(1, 3001), np.full(3000, 11), negatives, "random", 20)
    assert ranks.min() == 1 and ranks.max() == 10 and abs(ranks.mean() - 5.5) < 0.2


def test_held_out_items_do_not_count():
    sequences, n_items = world()
    counted = rank_sequential(sequences, "validation", "transitions", n_items)
    rng = np.random.default_rng(1)
    other = []
    for items in sequences:
        unseen = np.setdiff1d(np.arange(1, n_items + 1), items)
        other.append(np.append(items[:-1], rng.choice(unseen)))
    assert (counted == rank_sequential(other, "validation", "transitions", n_items)).all()


@pytest.mark.parametrize("method", ["popularity", "transitions"])
def test_users_of_whom_nothing_is_held_out_count_whole(method):
    sequences, n_items = world()
    ranked, others = sequences[:80], sequences[80:]
    # The same purchases train where two that are held out stand behind the others' own.
    longer = [*ranked, *(np.append(items, [1, 1]) for items in others)]
    ranks = rank_sequential(ranked, "test", method, n_items, untested=others)
    assert (ranks == rank_sequential(longer, "test", method, n_items)[:80]).all()
    assert (ranks != rank_sequential(ranked, "test", method, n_items)).any()
    asked = np.arange(1, 81), np.array([items[-1] for items in ranked]), np.tile([[3, 4, 5]], (80, 1))
    ranks = rank_candidates(ranked, *asked, method, n_items, untested=others)
    assert (ranks == rank_candidates(longer, *asked, method, n_items)).all()


def test_hit_and_ndcg_by_hand():
    assert hit_and_ndcg(np.array([1, 3, 30]), [1, 5]) == pytest.approx(
        {"hr@1": 1 / 3, "ndcg@1": 1 / 3, "hr@5": 2 / 3, "ndcg@5": 1.5 / 3}
    )


@pytest.mark.parametrize(
    "sequences, split, method, n_items, words",
    [
        ([[1, 2, 3]], "test", "magic", 5, "unknown; take one of random"),
        ([[1, 2, 3]], "train", "random", 5, "unknown; take one of validation"),
        ([[1, 2, 3], [1, 2]], "test", "random", 5, "sequence 1: 2 items"),
        ([[1, 2, 9]], "test", "random", 5, "not within 1 to 5"),
    ],
)
def test_bad_input_is_named(sequences, split, method, n_items, words):
    with pytest.raises(ValueError, match=words):
        rank_sequential([np.array(items) for items in sequences], split, method, n_items)


def test_shapes_of_candidates_are_checked():
    with pytest.raises(ValueError, match="one row of negatives"):
        rank_candidates([np.arange(1, 5)], np.array([1]), np.array([4]), np.zeros((2, 9)), "random", 9)


# The design's table. Ties left to the seed move a figure by about .0002; the last differences are of its unknown ties.
DESIGN_BEAUTY = {"hr@5": 0.0540, "ndcg@5": 0.0394, "hr@10": 0.0752, "ndcg@10": 0.0462}
DESIGN_BEAUTY_TOPN = {"hr@1": 0.1081, "hr@5": 0.2317, "ndcg@5": 0.1716, "hr@10": 0.3298, "ndcg@10": 0.2031}


@pytest.fixture(scope="module")
def beauty(shared_dir):
    with gzip.open(shared_dir / "data" / "beauty" / "sequential.txt.gz", "rt") as lines:
        return [np.array(line.split()[1:], dtype=np.int64) for line in lines]


@pytest.mark.slow
def test_beauty_sequential_gives_the_design_figures(beauty):
    ranks = rank_sequential(beauty, "test", "transitions", 12_101)
    assert hit_and_ndcg(ranks, [5, 10]) == pytest.approx(DESIGN_BEAUTY, abs=5e-4)


@pytest.mark.slow
def test_beauty_topn_gives_the_design_figures(beauty):
    rng = np.random.default_rng(0)
    users = np.arange(1, len(beauty) + 1)
    # An item of a user's own among so many negatives is rare enough to leave in.
    negatives = rng.integers(1, 12_102, size=(len(beauty), 99))
    ranks = rank_candidates(beauty, users, np.array([items[-1] for items in beauty]), negatives, "transitions", 12_101)
    scores = hit_and_ndcg(ranks, [1, 5, 10])
    assert {name: scores[name] for name in DESIGN_BEAUTY_TOPN} == pytest.approx(DESIGN_BEAUTY_TOPN, abs=6e-3)
