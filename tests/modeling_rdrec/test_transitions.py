"""Counted transitions: against a plain count, and through a file."""

from collections import Counter

import numpy as np
import pytest

from modeling_rdrec import transitions
from modeling_rdrec.transitions import LAST_ITEMS, LIKENESS, STEP_APART, STEP_BACK, WINDOW, Transitions


ITEMS = 30


@pytest.fixture
def sequences():
    rng = np.random.default_rng(0)
    return [rng.integers(1, ITEMS + 1, size) for size in (0, 1, 2, *rng.integers(3, 15, 60))]


def plain_pairs(sequences, window=WINDOW):
    pairs = Counter()
    for row in sequences:
        for place, a in enumerate(row):
            for apart, b in enumerate(row[place + 1 : place + 1 + window]):
                pairs[int(a), int(b)] += STEP_APART**apart
    return pairs


def plain_weighted(sequences, history):
    counts = np.zeros(ITEMS)
    pairs = plain_pairs(sequences)
    for back, item in enumerate(reversed(list(history)[-LAST_ITEMS:])):
        for (a, b), count in pairs.items():
            counts[b - 1] += STEP_BACK**back * count * (a == item)
    return counts


@pytest.mark.parametrize("window", [1, 2, WINDOW])
def test_pairs_are_those_of_a_plain_count(sequences, window):
    counted, pairs = Transitions.count(sequences, ITEMS, window), plain_pairs(sequences, window)
    assert [edge[:2] for edge in counted.edges.tolist()] == sorted(pairs)
    assert {(a, b): n for a, b, n in counted.edges.tolist()} == pytest.approx(dict(pairs))


@pytest.mark.parametrize("full", [0.0, 10.0])
def test_weighted_counts_are_those_of_a_plain_count(sequences, full, monkeypatch):
    monkeypatch.setattr(transitions, "FULL", full)  # summed in the table, or sorted
    counted, pairs = Transitions.count(sequences, ITEMS), plain_pairs(sequences)
    histories = [[3, 7, 9], [], [5], list(range(1, 25)), [2, 2, 2]]
    for found, history in zip(counted.weighted(histories), histories):
        np.testing.assert_allclose(found, plain_weighted(sequences, history), rtol=1e-6, atol=1e-7)
    rows, items, counts = counted.entries([np.array([3, 7]), np.zeros(0, dtype=np.int64)], step_back=1.0)
    assert (rows == 0).all() and (np.diff(items) > 0).all()
    assert dict(zip(items.tolist(), counts.tolist())) == pytest.approx(
        {b: pairs[3, b] + pairs[7, b] for b in range(1, ITEMS + 1) if pairs[3, b] + pairs[7, b]}
    )


def test_new_items_are_expected_after_their_neighbours_and_where_these_are(sequences):
    counted, pairs = Transitions.count(sequences, ITEMS), plain_pairs(sequences)
    neighbours, likeness = np.array([[4, 9], [4, 7]]), np.array([[0.5, 0.25], [1.0, 0.0]])
    grown = counted.with_items(neighbours, likeness)
    assert grown.num_items == ITEMS + 2
    found = {(a, b): n for a, b, n in grown.edges.tolist()}
    assert {pair: n for pair, n in found.items() if pair[1] <= ITEMS} == pytest.approx(dict(pairs))
    expected = Counter({(4, ITEMS + 1): LIKENESS / 4, (9, ITEMS + 1): LIKENESS / 16, (4, ITEMS + 2): LIKENESS})
    for (a, b), n in pairs.items():
        expected[a, ITEMS + 1] += n * {4: 2 / 3, 9: 1 / 3}.get(b, 0)
        expected[a, ITEMS + 2] += n * (b == 4)
    assert {p: n for p, n in found.items() if p[1] > ITEMS} == pytest.approx({p: n for p, n in expected.items() if n})
    assert grown.weighted([[4]])[0, ITEMS:] == pytest.approx([found[4, ITEMS + 1], found[4, ITEMS + 2]])
    assert not grown.weighted([[ITEMS + 1]]).any()  # what follows a new item nobody knows
    again = grown.with_items(np.array([[ITEMS + 1]]), np.array([[1.0]]))
    assert {b for _, b, _ in again.edges.tolist()} >= {ITEMS + 1, ITEMS + 3}


def test_a_new_item_unlike_all_others_is_expected_nowhere(sequences):
    grown = Transitions.count(sequences, ITEMS).with_items(np.array([[4, 9]]), np.zeros((1, 2)))
    assert not grown.weighted([[4, 9, 3]])[0, ITEMS:].any()


@pytest.mark.parametrize("rows", [[], [[]], [[4]], [[4], [5]]])
def test_nothing_bought_twice_is_nothing_counted(rows, tmp_path):
    counted = Transitions.count([np.array(row, dtype=np.int64) for row in rows], ITEMS)
    assert len(counted.edges) == 0 and not counted.weighted([[4, 5]]).any()
    counted.save(tmp_path / "t.npy")
    assert not Transitions.load(tmp_path / "t.npy").weighted([[4]]).any()


def test_saved_and_loaded_they_are_the_same(sequences, tmp_path):
    counted = Transitions.count(sequences, ITEMS)
    counted.save(tmp_path / "t.npy")
    again = Transitions.load(tmp_path / "t.npy")
    assert again.num_items == ITEMS
    np.testing.assert_array_equal(again.edges, counted.edges)
    np.testing.assert_array_equal(again.weighted([[3, 7]]), counted.weighted([[3, 7]]))


def test_a_file_that_holds_none_is_named(tmp_path):
    path = tmp_path / "t.npy"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="t.npy: no transitions .*: get it anew, or set prior_weight 0"):
        Transitions.load(path)
    np.save(path, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="t.npy: no transitions .float64"):
        Transitions.load(path)
