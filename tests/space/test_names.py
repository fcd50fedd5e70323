"""Finding items by what a visitor types."""

import pytest


TITLES = {
    "B01": "Acme acoustic guitar strings",
    "B02": "Acme guitar stand",
    "B03": "Music stand, folding",
    "B04": "Standard tuner B02 edition",
}


@pytest.fixture
def names():
    from names import Names

    return Names(TITLES, [5, 1, 9, 20])


@pytest.mark.parametrize(
    "typed, ids",
    [
        ("guitar", ["B01", "B02"]),
        ("  STRINGS acoustic ", ["B01"]),
        ("stand", ["B04", "B03", "B02"]),  # all three words begin so; then what is bought most
        ("tand", ["B04", "B03", "B02"]),
        ("b02", ["B02", "B04"]),  # the id before a title that holds it
        ("", ["B04", "B03", "B01", "B02"]),
    ],
)
def test_every_word_counts_and_the_best_come_first(names, typed, ids):
    found = names.find(typed)
    assert (found.ids, found.total, found.did_you_mean) == (ids, len(ids), None)
    assert names.find(typed, k=1).ids == ids[:1] and names.find(typed, k=1).total == len(ids)


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("gutar", "guitar"),
        ("accoustic guitr", "acoustic guitar"),
        ("guitar strigns", "guitar strings"),
        ("tunre guitar", None),  # no title holds both
        ("guitar tuner", None),
        ("zzzzzz", None),
        ("B044", "b04"),
    ],
)
def test_slips_are_told_what_may_be_meant(names, typed, meant):
    assert names.find(typed) == ([], 0, meant)
    if meant:
        assert names.find(meant).total
