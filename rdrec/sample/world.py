"""The world of the sample: a shop, its users, and the rule by which they buy.

    shop = make_shop(seed=0, num_users=400)
    purchases = drawdraw_purchases(shop)                # (user, item, unix time), sorted by time
    shop.scores("ASAMPLEUSR0000", ["B0SAMPL017"])   # true log-probability of every item to be bought next

A hobby shop sells 240 items: 12 hobbies of 20 items, each item with two of ten traits. Every user has favourite
hobbies, and likes and dislikes traits. A purchase is drawn from a softmax, written out in `World.scores`, of taste, of
what the last purchases lead to, and of popularity, over the items that the user does not own yet.

Vocabulary here: a *hobby* is a group of items, in which each item has a *place* on a ring; to *follow* is to stand a
little further on that ring.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rdrec.errors import DatasetError


ITEM_STREAM, USER_STREAM, PURCHASE_STREAM, TIME_STREAM, REVIEW_STREAM = range(5)

# --- What the shop sells -------------------------------------------------------------------------------------------

HOBBIES: dict[str, tuple[str, ...]] = {
    "watercolor painting": ("brush set", "paint tin", "paper pad", "mixing palette", "table easel"),
    "home baking": ("loaf pan", "dough whisk", "proofing basket", "cooling rack", "kitchen scale"),
    "hiking": ("trekking pole", "daypack", "headlamp", "water filter", "rain poncho"),
    "playing guitar": ("string set", "capo", "clip tuner", "guitar strap", "practice amp"),
    "balcony gardening": ("planter box", "watering can", "pruning shear", "seed tray", "compost bin"),
    "bird watching": ("bird feeder", "field glass", "nest box", "bird whistle", "seed hopper"),
    "knitting": ("needle set", "yarn bowl", "stitch counter", "wool basket", "blocking mat"),
    "bike commuting": ("pannier bag", "bike light", "floor pump", "chain lock", "phone mount"),
    "brewing tea": ("teapot", "tea infuser", "gooseneck kettle", "tea caddy", "serving cup"),
    "tabletop gaming": ("dice tray", "card binder", "miniature case", "game mat", "turn timer"),
    "stargazing": ("star chart", "red torch", "camera tripod", "wide eyepiece", "lens cloth"),
    "calligraphy": ("fountain pen", "ink bottle", "dotted journal", "desk blotter", "pen case"),
}
BRANDS = ("Norvale", "Fernholt", "Quillby", "Tamsin")


class Trait(NamedTuple):
    """A property an item may have, and the words for it."""

    adjective: str
    liking: str  # what one who likes it prefers, and one who does not would rather avoid
    praise: tuple[str, str]
    complaint: tuple[str, str]


TRAITS = (
    Trait(
        "lightweight",
        "light gear",
        ("the low weight saves my shoulders", "I hardly notice the weight"),
        ("the low weight makes it feel flimsy", "I miss some weight in the hand"),
    ),
    Trait(
        "sturdy",
        "things built to last",
        ("the build takes a beating", "nothing wobbles or bends"),
        ("the build is clumsy and stiff", "it is far more bulk than I need"),
    ),
    Trait(
        "compact",
        "gear that packs small",
        ("the small size fits any drawer", "it packs away in seconds"),
        ("the small size is awkward for my hands", "I wish the size were larger"),
    ),
    Trait(
        "colorful",
        "bright colors",
        ("the colors cheer me up", "the bright finish looks lovely"),
        ("the colors are loud and distracting", "the bright finish looks childish"),
    ),
    Trait(
        "affordable",
        "a low price",
        ("the price is hard to beat", "great value for the money"),
        ("the low price shows in the finish", "I would gladly pay more for better parts"),
    ),
    Trait(
        "comfortable",
        "a comfortable grip",
        ("the grip is soft and pleasant", "my hands never get tired"),
        ("the soft grip feels mushy", "the padding gets in the way"),
    ),
    Trait(
        "washable",
        "things that clean up easily",
        ("cleaning takes a minute", "it rinses clean with no stains"),
        ("the coating for easy cleaning feels like plastic", "the wipe-clean surface is slippery"),
    ),
    Trait(
        "precise",
        "exact tools",
        ("every mark is accurate", "the adjustment is wonderfully exact"),
        ("the fine adjustment is fussy", "setting it takes far too long"),
    ),
    Trait(
        "recycled",
        "sustainable materials",
        ("the recycled material makes me feel good about it", "no needless plastic in the packaging"),
        ("the recycled material smells odd", "the material looks uneven and dull"),
    ),
    Trait(
        "elegant",
        "a classic design",
        ("the design looks beautiful on my shelf", "guests always admire the design"),
        ("the design is too fancy for daily use", "I worry about scratching the design"),
    ),
)

# --- How people buy ------------------------------------------------------------------------------------------------

HOBBY_TASTE = (3.4, 2.8, 2.0)  # logit of a user's favourite hobbies; the others have 0
TRAIT_TASTE = 0.7  # added for each liked trait of an item, subtracted for each disliked one
FOLLOWS = (4.4, 3.4, 2.4)  # added to the items one, two, three places on from the last purchase
FADE = 0.4  # what the purchase before the last one still counts
COMPANION = 2.0  # added to the one item of another hobby that goes with the last purchase
POPULARITY_SPREAD = 0.35  # standard deviation of an item's log popularity
MIN_PURCHASES, MAX_PURCHASES = 8, 14


class Choices:
    """Random choices made of uniform draws alone, whose stream numpy keeps stable, so the world stays the same."""

    def __init__(self, seed: int, stream: int):
        self.random = np.random.default_rng([seed, stream]).random

    def below(self, limit: int) -> int:
        """A whole number in [0, limit)."""
        return int(self.random() * limit)

    def pick(self, options: Any) -> Any:
        """One of a sequence."""
        return options[self.below(len(options))]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def order(self, size: int) -> np.ndarray:
        """A permutation of range(size): int64 [size]."""
        return np.argsort(self.random(size), kind="stable")

    def normal(self, size: int) -> np.ndarray:
        """Roughly standard normal draws (the sum of twelve uniform ones): float64 [size]."""
        return self.random((size, 12)).sum(axis=1) - 6.0


@dataclass
class World:
    """The shop, its users, and all they bought and wrote.

    Attributes
    ----------
    seed, num_users : int
        What `make_world` was given.
    user_ids, item_ids : list of str
        Raw ids; an index into them is the user's or item's number below.
    hobby, place : np.ndarray
        Hobby of each item and its place on the hobby's ring: int64 [items].
    traits : np.ndarray
        float64 [items, traits], 1 where the item has the trait (two each).
    companion : np.ndarray
        The item of another hobby that goes with each item: int64 [items].
    log_popularity : np.ndarray
        float64 [items].
    hobby_taste, trait_taste : np.ndarray
        float64 [users, hobbies] (logits), [users, traits] (1 liked, -1 disliked, 0 neither).
    names : list of str
        A few words for each item.
    rows : list of dict
        The reviews, in the order of the file: by time; empty until `texts.write_reviews` fills it, as is `rationales`.
    rationales : list of tuple
        `(user_preference or None, item_attributes or None)` of each review.
    """

    seed: int
    num_users: int
    user_ids: list[str]
    item_ids: list[str]
    hobby: np.ndarray
    place: np.ndarray
    traits: np.ndarray
    companion: np.ndarray
    log_popularity: np.ndarray
    hobby_taste: np.ndarray
    trait_taste: np.ndarray
    names: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
    rationales: list[tuple[str | None, str | None]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._user_number = {raw: number for number, raw in enumerate(self.user_ids)}
        self._item_number = {raw: number for number, raw in enumerate(self.item_ids)}

    def reviews(self) -> Iterator[dict[str, Any]]:
        """Yield the reviews as rows with the field names of the 2014 release (`reviewerID`, `asin`, ...)."""
        return (dict(row) for row in self.rows)

    def reviews_sha256(self) -> str:
        """Hex SHA-256 over the reviews: says which reviews a file of rationales was written for."""
        return hashlib.sha256(json.dumps(self.rows, sort_keys=True).encode()).hexdigest()

    def item_number(self, raw_id: str) -> int:
        """Number of an item; DatasetError for an id that is not of this world."""
        if raw_id not in self._item_number:
            raise DatasetError(f"item {raw_id}: not in the sample world; use the raw ids of the sample's catalog")
        return self._item_number[raw_id]

    def user_number(self, raw_id: str) -> int:
        """Number of a user; DatasetError for an id that is not of this world."""
        if raw_id not in self._user_number:
            raise DatasetError(f"user {raw_id}: not in the sample world; use the raw ids of the sample's catalog")
        return self._user_number[raw_id]

    def scores(self, user_raw: str, history_raw: list[str]) -> np.ndarray:
        """Return the true log-probability of every item to be the user's next purchase.

        Parameters
        ----------
        user_raw : str
        history_raw : list of str
            All that the user bought so far, oldest first.

        Returns
        -------
        np.ndarray
            float64 [items] in the order of `item_ids`; -inf for items of the history.
        """
        history = np.array([self.item_number(raw) for raw in history_raw], dtype=np.int64)
        return self._log_probabilities(self.user_number(user_raw), history)

    def _log_probabilities(self, user: int, history: np.ndarray) -> np.ndarray:
        logits = self.log_popularity + self.hobby_taste[user][self.hobby]
        logits = logits + TRAIT_TASTE * (self.traits @ self.trait_taste[user])
        for weight, last in zip((1.0, FADE), history[::-1], strict=False):
            step = (self.place - self.place[last]) % (len(self.hobby) // len(HOBBIES))
            for distance, bonus in enumerate(FOLLOWS, start=1):
                logits[(self.hobby == self.hobby[last]) & (step == distance)] += weight * bonus
            logits[self.companion[last]] += weight * COMPANION
        logits[history] = -np.inf
        top = logits.max()
        return logits - (top + np.log(np.exp(logits - top).sum()))


def make_shop(seed: int, num_users: int) -> World:
    choose = Choices(seed, ITEM_STREAM)
    ring = len(BRANDS) * len(next(iter(HOBBIES.values())))
    items = len(HOBBIES) * ring
    # Numbers are dealt out at random, so that an id says nothing about the item.
    dealt = choose.order(items)
    hobby, place = np.empty(items, dtype=np.int64), np.empty(items, dtype=np.int64)
    hobby[dealt], place[dealt] = np.divmod(np.arange(items), ring)
    traits = np.zeros((items, len(TRAITS)))
    companion = np.empty(items, dtype=np.int64)
    names = []
    for item in range(items):
        traits[item, choose.order(len(TRAITS))[:2]] = 1.0
        elsewhere = np.flatnonzero(hobby != hobby[item])
        companion[item] = choose.pick(elsewhere)
        adjectives = " ".join(TRAITS[t].adjective for t in np.flatnonzero(traits[item]))
        names.append(f"{brand_of(place[item])} {adjectives} {product_of(hobby[item], place[item])}")
    log_popularity = POPULARITY_SPREAD * choose.normal(items)

    choose = Choices(seed, USER_STREAM)
    hobby_taste = np.zeros((num_users, len(HOBBIES)))
    trait_taste = np.zeros((num_users, len(TRAITS)))
    for user in range(num_users):
        hobby_taste[user, choose.order(len(HOBBIES))[: len(HOBBY_TASTE)]] = HOBBY_TASTE
        liked_and_not = choose.order(len(TRAITS))[:5]
        trait_taste[user, liked_and_not] = (1.0, 1.0, 1.0, -1.0, -1.0)
    return World(
        seed=seed,
        num_users=num_users,
        user_ids=[f"ASAMPLEUSR{number:04d}" for number in range(num_users)],
        item_ids=[f"B0SAMPL{number:03d}" for number in range(items)],
        hobby=hobby,
        place=place,
        traits=traits,
        companion=companion,
        log_popularity=log_popularity,
        hobby_taste=hobby_taste,
        trait_taste=trait_taste,
        names=names,
    )


def product_of(hobby: int, place: int) -> str:
    products = list(HOBBIES.values())[hobby]
    return products[place % len(products)]


def brand_of(place: int) -> str:
    return BRANDS[place // (len(next(iter(HOBBIES.values()))))]


def draw_purchases(world: World) -> list[tuple[int, int, int]]:
    """Draw (user, item, unix time) of all purchases, sorted by time; a user's own order is kept among equal times."""
    choose, when = Choices(world.seed, PURCHASE_STREAM), Choices(world.seed, TIME_STREAM)
    day, first_day = 86_400, 15_340  # the first of January 2012; stamps are midnights, as in the real files
    purchases = []
    for user in range(world.num_users):
        history = np.empty(0, dtype=np.int64)
        date = first_day + when.below(600)
        for _ in range(MIN_PURCHASES + choose.below(MAX_PURCHASES - MIN_PURCHASES + 1)):
            cumulative = np.cumsum(np.exp(world._log_probabilities(user, history)))
            item = int(np.searchsorted(cumulative, choose.random() * cumulative[-1], side="right"))
            history = np.append(history, item)
            purchases.append((user, item, date * day))
            # Some things are bought on one day: ties that only the order of the file resolves.
            date += 0 if when.chance(0.12) else 1 + when.below(40)
    return sorted(purchases, key=lambda purchase: purchase[2])
