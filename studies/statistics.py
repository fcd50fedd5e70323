"""Intervals and tests of a difference between two settings, over users and over seeds.

    over_users(ndcg_a, ndcg_b)       # Difference(value=.0021, low=.0008, high=.0034)
    over_seeds([.071, .072], [.069, .070])
    holm([.01, .04, .03])            # [.03, .06, .06]

The two intervals answer two questions. Over users: would other customers of the same shop show the same, with the
models as they are? Over seeds: would the same recipes, trained again? A difference counts where both say so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats


LEVEL = 0.95
ROUNDING = 1e-12  # what a difference of equal figures may come to
RESAMPLES = 2000  # the edges of the interval then vary by some 3% of its width
RESAMPLES_AT_ONCE = 32  # bounds the memory at 40,000 users to some 20 MB


class Difference(NamedTuple):
    """A mean difference with its 95% interval."""

    value: float
    low: float
    high: float


class SeedTest(NamedTuple):
    """A difference over seeds: interval and p of the paired t-test, and its size in standard deviations, if defined."""

    difference: Difference
    p: float
    size: Difference | None


def same_order(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Spearman's rank correlation of two measures of the same things, and its two-sided p over permutations.

    Zero and 1 where one of the two does not vary.
    """
    if not np.ptp(ours) or not np.ptp(theirs):
        return 0.0, 1.0
    ours, theirs = (stats.zscore(stats.rankdata(one)) for one in (ours, theirs))  # whose mean product is Spearman's
    found = stats.permutation_test(
        (ours,),
        lambda x, axis: (x * theirs).mean(axis),
        permutation_type="pairings",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def over_users(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Difference:
    """The mean of ours - theirs over users, with the percentile interval of a paired bootstrap (Efron 1979).

    Parameters
    ----------
    ours, theirs : float64 arrays [users] or [seeds, users]
        A score of each user; seeds are averaged first, so what is drawn again is users, each with both scores.

    Raises
    ------
    ValueError
        For arrays of different users, or fewer than two.
    """
    gains = np.atleast_2d(ours).mean(axis=0) - np.atleast_2d(theirs).mean(axis=0)
    if not np.ptp(gains):  # scipy has no interval for numbers that are all alike
        return Difference(*3 * [float(gains[0])])
    found = stats.bootstrap(
        (gains,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=RESAMPLES_AT_ONCE,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(float(gains.mean()), float(found.low), float(found.high))


def over_seeds(ours: Sequence[float], theirs: Sequence[float]) -> SeedTest:
    """The paired t-test over seeds (equal seeds draw equal batches), and Cohen's d of the paired differences.

    The t-test, since with five seeds Wilcoxon's can give no p below .06. The interval of d comes from the noncentral t
    distribution (Cumming and Finch 2001).

    Parameters
    ----------
    ours, theirs : sequences of float [seeds]
        A figure of each seed, in the same order.

    Raises
    ------
    ValueError
        For fewer than two seeds, or different numbers of them.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if len(ours) < 2 or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} seeds: give the same two or more on both sides")
    gains = ours - theirs
    if np.ptp(gains) < ROUNDING:  # no spread: the same figure under every seed, so there is nothing to test
        value = float(gains[0])
        return SeedTest(Difference(value, value, value), float(abs(value) < ROUNDING), None)
    test = stats.ttest_rel(ours, theirs)
    found = test.confidence_interval(LEVEL)
    freedom, edges = len(gains) - 1, ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    centres = [test.statistic, *(special.nctdtrinc(freedom, edge, test.statistic) for edge in edges)]
    size = Difference(*(float(centre / np.sqrt(len(gains))) for centre in centres))
    return SeedTest(Difference(float(gains.mean()), float(found.low), float(found.high)), float(test.pvalue), size)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): each may be compared with .05 as if it stood alone."""
    order = np.argsort(values, kind="stable")
    corrected = np.maximum.accumulate(np.asarray(values, dtype=float)[order] * np.arange(len(order), 0, -1))
    result = np.empty(len(order))
    result[order] = np.minimum(corrected, 1.0)
    return result.tolist()


def seed_interval(values: Sequence[float]) -> tuple[float, float, float | None]:
    """Mean, standard deviation over seeds and half the width of the mean's 95% interval (None for a single seed)."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), 0.0, None
    spread = float(values.std(ddof=1))
    return (
        float(values.mean()),
        spread,
        float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * spread / np.sqrt(len(values))),
    )
