"""Example tastes and what counting recommends."""

import numpy as np

from rdrec.evaluation.baselines import rank_sequential


def test_examples_are_ends_of_real_histories_named_by_what_their_titles_share():
    from histories import example_tastes

    titles = ["red kite", "blue kite string", "kite string", "big kite", "tea pot", "tea cup", "tea tin", "oak tea set"]
    titles += ["green bag", "brush", None, "pan"]
    histories = [
        [9, 1, 2, 3, 4, 10],
        [5, 6, 7, 8],
        [1, 2, 3, 4],
        [9, 10, 11, 12],
        [5, 6, 7],
        [5, 6, 7, 8, 10, 9, 12, 1],
    ]
    tastes = example_tastes(histories, titles)
    assert tastes == [
        ("Kite string", [9, 1, 2, 3, 4, 10]),
        ("Tea", [5, 6, 7, 8]),
        ("Example 3", [9, 10, 11, 12]),  # its titles share nothing
    ]
    assert example_tastes(histories, titles, count=1) == tastes[:1]


def test_without_titles_there_are_examples_all_the_same():
    from histories import example_tastes

    histories = [[1, 2, 3], [1, 2, 3, 4, 5, 5, 6, 7], [4, 3, 2, 1]]
    assert example_tastes(histories, [None] * 7) == [("Example 1", [2, 3, 4, 5, 6, 7]), ("Example 2", [4, 3, 2, 1])]
    assert example_tastes([[1, 2]], ["a", "b"]) == []


def test_counting_is_what_evaluation_compares_the_model_with(sample_data):
    from histories import Counts

    sequences = [items.tolist() for items in sample_data.sequences]
    counts = Counts([items[:-2] for items in sequences], sample_data.num_items)
    found = np.array([items[-1] in counts.best(items[:-1], 10) for items in sequences])
    ranks = rank_sequential(sample_data.sequences, "test", "transitions", sample_data.num_items)
    # Equal counts of equally popular items are ordered by chance there, and here by id.
    assert found.mean() > 0.5 and (found == (ranks <= 10)).mean() > 0.99


def test_counting_prefers_what_came_right_after_the_latest_and_fills_up_with_what_is_popular():
    from histories import Counts

    counts = Counts([[1, 2, 3], [1, 2, 4], [2, 4], [5, 3]], 6)
    assert counts.bought == [2, 3, 2, 2, 1, 0]
    assert counts.best([1, 2], 6) == [4, 3, 5, 6]
    assert counts.best([2, 1], 2) == [4, 3] and counts.best([], 2) == [2, 1]
    # 3 came once after 5, the latest; 4 twice after 2, two steps back: 1 against 2 * 0.49.
    assert counts.best([2, 6, 5], 2) == [3, 4]
