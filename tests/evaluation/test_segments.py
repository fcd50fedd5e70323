"""Kinds of queries: borders of the segments, and that their scores add up to the whole."""

import numpy as np
import pytest

from rdrec.evaluation.segments import by_segment, in_order, length_segments, popularity_segments, segments


def test_head_and_tail_hold_a_fifth_of_the_interactions_each():
    labels = popularity_segments(np.array([20, 0, 10, 50, 15, 5]))
    assert labels.tolist() == ["middle", "new", "tail", "head", "middle", "tail"]
    even = popularity_segments(np.full(10, 3))
    assert even.tolist() == ["head"] * 2 + ["middle"] * 6 + ["tail"] * 2


def test_lengths_fall_on_the_right_side_of_each_border():
    labels = length_segments([1, 5, 6, 10, 11, 20, 21], (5, 10, 20), "items")
    names = ["up to 5 items", "6 to 10 items", "11 to 20 items", "over 20 items"]
    assert labels.tolist() == [names[0]] * 2 + [names[1]] * 2 + [names[2]] * 2 + [names[3]]
    assert in_order(reversed(names)) == names
    assert in_order({"new", "tail", "head"}) == ["head", "tail", "new"]


def test_segments_of_the_sample_add_up_to_all_its_queries(sample_data):
    users = list(range(1, len(sample_data.sequences) + 1))
    targets = [items[-2] for items in sample_data.sequences]
    kinds = segments(sample_data, "validation", users, targets)
    assert set(kinds) == {"history", "item", "review"}
    row = next(n for n, items in enumerate(sample_data.sequences) if len(items) - 2 > 10)
    assert kinds["history"][row] in ("11 to 20 items", "over 20 items")
    ranks = np.where(np.arange(len(users)) % 3 == 0, np.inf, 1 + np.arange(len(users)) % 7)
    whole = (ranks <= 10).mean()
    for parts in by_segment(ranks, kinds).values():
        assert sum(part["queries"] for part in parts.values()) == len(users)
        assert sum(part["queries"] * part["hr@10"] for part in parts.values()) / len(users) == pytest.approx(whole)
    known = dict(zip(zip(sample_data.texts["train"].user, sample_data.texts["train"].item), range(10**6)))
    assert not any(pair in known for pair in zip(users, targets))  # so the reviews are those of held-out splits
    assert (kinds["review"] == "no review").mean() < 0.5
