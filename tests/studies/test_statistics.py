"""Statistics of a study: against scipy's results, by hand, and how often an interval holds the truth."""

import numpy as np
import pytest
from scipy import stats

from studies import statistics
from studies.statistics import holm, over_seeds, over_users, same_order, seed_interval


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_the_interval_over_users_is_that_of_the_paired_differences():
    rng = np.random.default_rng(1)
    theirs = rng.random(4000)  # the users differ much, the two models little: unpaired, nothing would show
    ours = theirs + 0.01 + 0.02 * rng.standard_normal(4000)
    found = over_users(ours, theirs)
    error = 0.02 / np.sqrt(4000)
    assert found.value == pytest.approx(np.mean(ours - theirs))
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.3 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.3 * error)
    assert over_users(ours, theirs) == found and over_users(ours, theirs, seed=1) != found
    assert over_users(np.stack([ours, ours]), theirs) == found  # seeds are averaged first
    assert over_users(theirs, theirs) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError):
        over_users(ours, theirs[:-1])


def test_intervals_over_users_hold_the_truth_nineteen_times_of_twenty(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(200):
        hits = (rng.random((2, 300)) < [[0.35], [0.25]]).astype(float)
        found = over_users(hits[0], hits[1], seed)
        held += found.low <= 0.1 <= found.high
    assert 178 <= held <= 199  # binomial, 200 draws at .95: outside of this once in ten thousand


def test_a_test_over_seeds_is_scipys_with_the_size_of_the_effect():
    ours, theirs = [0.52, 0.55, 0.51, 0.56, 0.54], [0.50, 0.51, 0.50, 0.53, 0.53]
    found = over_seeds(ours, theirs)
    test = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(test.pvalue)
    assert found.difference.low == pytest.approx(test.confidence_interval(0.95).low)
    gains = np.subtract(ours, theirs)
    assert found.size.value == pytest.approx(gains.mean() / gains.std(ddof=1))
    # The edges of d put the observed t at the 97.5th and the 2.5th percentile.
    for edge, share in ((found.size.low, 0.975), (found.size.high, 0.025)):
        assert stats.nct.cdf(test.statistic, 4, edge * np.sqrt(5)) == pytest.approx(share, abs=1e-6)
    back = over_seeds(theirs, ours)
    assert back.p == pytest.approx(found.p) and back.size.high == pytest.approx(-found.size.low, abs=1e-6)


def test_what_no_seed_changes_is_not_tested():
    assert over_seeds([0.5, 0.5], [0.25, 0.25]) == ((0.25, 0.25, 0.25), 0.0, None)
    assert over_seeds([0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]).p == 1.0  # equal but for rounding
    assert over_seeds([0.5, 0.6], [0.5, 0.6]) == ((0.0, 0.0, 0.0), 1.0, None)
    for ours, theirs in (([0.5], [0.4]), ([0.5, 0.4], [0.4])):
        with pytest.raises(ValueError, match="give the same two or more"):
            over_seeds(ours, theirs)


def test_the_mean_over_seeds_has_the_interval_of_t():
    mean, spread, half = seed_interval([1.0, 2.0, 3.0])
    assert (mean, spread) == (2.0, 1.0) and half == pytest.approx(4.303 / np.sqrt(3), abs=1e-3)
    assert seed_interval([1.5]) == (1.5, 0.0, None)


def test_the_same_order_is_spearmans_with_an_exact_p_for_few():
    ours = [0.1, 0.2, 0.3, 0.4, 0.5]
    assert same_order(ours, [1, 2, 3, 4, 5]) == pytest.approx((1.0, 2 / 120))  # that order or its reverse, of 5!
    assert same_order(ours, [5, 4, 3, 2, 1])[0] == pytest.approx(-1)
    found = same_order(ours, [2, 1, 4, 3, 5])
    assert found[0] == pytest.approx(stats.spearmanr(ours, [2, 1, 4, 3, 5]).statistic) and 0.05 < found[1] < 0.3
    assert same_order(ours, [7.0] * 5) == (0.0, 1.0)
