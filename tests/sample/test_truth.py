"""What an explanation of the sample claims, against what was planted."""

import numpy as np
import pytest

from rdrec.errors import DatasetError
from rdrec.sample.texts import write_reviews
from rdrec.sample.truth import planted_truth
from rdrec.sample.world import HOBBIES, TRAITS, draw_purchases, make_shop, product_of


@pytest.fixture(scope="module")
def world():
    return make_shop(0, 400)


def test_claims_are_held_against_what_was_planted(world):
    user, item = 3, 7
    has = np.flatnonzero(world.traits[item])
    lacks = np.flatnonzero(world.traits[item] == 0)
    neutral = next(t for t in lacks if world.trait_taste[user, t] == 0)
    liked = next(t for t in lacks if world.trait_taste[user, t] != 0)
    product = product_of(world.hobby[item], world.place[item])
    foreign = next(h for h in range(len(HOBBIES)) if h != world.hobby[item] and world.hobby_taste[user, h] == 0)
    cases = {
        f"The {product} arrived.": (1, 0, 0),
        f"It is {TRAITS[neutral].adjective}.": (0, 0, 1),
        f"It is {TRAITS[liked].adjective}.": (0, 1, 1),
        f"A {product} for {list(HOBBIES)[foreign]}.": (1, 0, 1),
        "Nothing to say.": (0, 0, 0),
    }
    for sentence, (of_item, of_user, untrue) in cases.items():
        found = planted_truth(world, [world.user_ids[user]], [world.item_ids[item]], [sentence])
        assert (found["names_item"], found["names_user"], found["untrue"]) == (
            100 * of_item,
            100 * of_user,
            100 * untrue,
        ), sentence
    both = f"{TRAITS[has[0]].praise[0]} and {TRAITS[liked].adjective}"
    asked = ([world.user_ids[user]], [world.item_ids[item]])
    assert planted_truth(world, *asked, [both])["names_both"] == 100


def test_what_reviewers_wrote_is_mostly_true(world):
    write_reviews(world, draw_purchases(world))
    rows = world.rows[:500]
    columns = [[row[name] for row in rows] for name in ("reviewerID", "asin", "reviewText")]
    found = planted_truth(world, *columns)
    assert found["names_item"] > 70 and found["untrue"] < 3


def test_strangers_are_refused(world):
    with pytest.raises(DatasetError, match="item B0OTHER"):
        planted_truth(world, [world.user_ids[0]], ["B0OTHER"], ["x"])
