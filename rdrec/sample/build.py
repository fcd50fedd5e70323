"""The embedded sample: a small seeded world of shoppers whose best possible ranking is known.

    python -m dataset_builder sample --output sample_data     # build it as a dataset folder
    python -m rdrec.sample plant                    # write rationales/planted.parquet anew
    python -m rdrec.sample export reviews.jsonl     # its reviews, to distil rationales from
    python -m rdrec.sample adopt rationales.parquet # ship what distill.py made of them

    path = build_sample("sample_data")
    tables = load_tables(path)
    ceiling(world_from_info(tables.info), tables)             # what nothing can be expected to beat

A hobby shop sells 240 items: 12 hobbies of 20 items, each item with two of ten traits. Every user has favourite
hobbies, and likes and dislikes traits. A purchase is drawn from a softmax, written out in `World.scores`, of taste, of
what the last purchases lead to, and of popularity, over the items that the user does not own yet. Reviews are written
from taste and traits, with noise: idle remarks, reviews of one word, typos, contradictions.

Two sets of rationales ship. `distilled` (the default): a small language model wrote them with distill.py, and the
policy of the audit settled each half. `planted`: they say what of the truth a review gives away, and their provenance
says that no model wrote them; beside them one sees what the teacher made of it.

Vocabulary here: a *hobby* is a group of items, in which each item has a *place* on a ring; to *follow* is to stand a
little further on that ring.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.build import build_tables
from dataset_builder.tables import INFO_FILE, Tables, load_tables, write_dataset
from rdrec.durable import whole_file
from rdrec.errors import DatasetError
from rdrec.evaluation.baselines import hit_and_ndcg


SAMPLE_DIR = "data/sample"
PLANTED_FILE = Path(__file__).with_name("rationales") / "planted.parquet"
DISTILLED_FILE = PLANTED_FILE.with_name("distilled.parquet")
FILES = {"distilled": DISTILLED_FILE, "planted": PLANTED_FILE}
TEACHER, PROMPT = "planted-truth", "planted"
# Raised when the generator's output changes, so that folders built by an older one are not taken for this one's.
GENERATOR = 2
CUTS = (1, 5, 10)

ITEM_STREAM, USER_STREAM, PURCHASE_STREAM, TIME_STREAM, REVIEW_STREAM = range(5)

RATIONALE_SCHEMA = pa.schema(
    [
        ("review_row", pa.int64()),
        ("user_preference", pa.string()),
        ("item_attributes", pa.string()),
        ("teacher", pa.string()),
        ("prompt", pa.string()),
    ]
)

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

# --- What people write ---------------------------------------------------------------------------------------------
# A user mostly keeps to one template of each list (a voice). What a sentence gives away follows from its slots.

PRAISES = (
    "The {product} is {adjective} and {because}.",
    "I love that this {product} is so {adjective}, {because}.",
    "Really {adjective} {product}: {because}.",
    "What {a} {adjective} {product}! {Because}.",
    "Exactly the {adjective} {product} I wanted, {because}.",
)
COMPLAINTS = (
    "The {product} is too {adjective} for me, {because}.",
    "Sadly this {product} is very {adjective} and {because}.",
    "It may be {adjective}, but {because}.",
    "I dislike how {adjective} the {product} is, {because}.",
    "{A} {adjective} {product} is not for me, {because}.",
)
PLAIN = (
    "The {product} from {brand} is {adjective}, as described.",
    "It is {a} {adjective} {product} and works fine.",
    "This {brand} {product} turned out {adjective}.",
    "A fairly {adjective} {product}, nothing more to say.",
    "Works well and is quite {adjective}.",
)
HOBBY_TALK = (
    "I use it every week for {hobby}.",
    "Since I started {hobby} I needed one of these.",
    "A perfect addition to my kit for {hobby}.",
    "My evenings are all about {hobby} these days.",
    "Anyone into {hobby} will find a use for it.",
)
IDLE = (
    "The parcel came on a {day}, two days late.",
    "My {relative} asked me on {day} where I bought mine.",
    "I ordered this in the {place} on a {day}.",
    "The box had a dent when I found it in the {place}.",
    "My {relative} got one for her birthday last {day}.",
    "Customer service answered the email of my {relative} by {day}.",
    "It rained on {day} so I write this in the {place}.",
    "I will update this when my {relative} is back from the {place}.",
)
# Fillings of idle remarks: with them no remark is common enough to be the likeliest thing to say.
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
RELATIVES = ("sister", "cousin", "neighbor", "aunt", "colleague", "daughter", "roommate", "coach")
PLACES = ("garage", "office", "kitchen", "train", "cabin", "library", "hallway", "shed")
SHORT = ("Good.", "Nice!", "Ok.", "Love it", "As expected.", "Not bad", "Great product!!", "Fine.", "Works.", "meh")
SUMMARIES = {
    1: ("Disappointed", "Not for me"),
    2: ("Could be better", "Hmm"),
    3: ("It is ok", "Average"),
    4: ("Pretty good", "Happy with it"),
    5: ("Five stars", "Excellent"),
}

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
        The reviews, in the order of the file: by time.
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

    def planted_rationale(self, row: int) -> tuple[str | None, str | None]:
        """Return `(user_preference, item_attributes)` of one review, each None where the review gives nothing away."""
        return self.rationales[row]

    def rationale_table(self) -> pa.Table:
        """The rationales of all reviews that support at least one half, as `planted.parquet` has them."""
        kept = [(row, *halves) for row, halves in enumerate(self.rationales) if any(halves)]
        columns = [list(column) for column in zip(*kept, strict=True)]
        return pa.table([*columns, [TEACHER] * len(kept), [PROMPT] * len(kept)], schema=RATIONALE_SCHEMA)

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


def make_world(seed: int = 0, *, num_users: int = 400) -> World:
    """Make the sample's world; equal arguments give an equal world on every machine.

    Parameters
    ----------
    seed : int
        Seed of everything: items, tastes, purchases, dates, reviews.
    num_users : int
        The items are always 240, so below some 200 users a few items may fall out of the 5-core.
    """
    world = _make_shop(seed, num_users)
    purchases = _purchases(world)
    _write_reviews(world, purchases)
    return world


def _make_shop(seed: int, num_users: int) -> World:
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
        names.append(f"{_brand(place[item])} {adjectives} {_product(hobby[item], place[item])}")
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


def _product(hobby: int, place: int) -> str:
    products = list(HOBBIES.values())[hobby]
    return products[place % len(products)]


def _brand(place: int) -> str:
    return BRANDS[place // (len(next(iter(HOBBIES.values()))))]


def _purchases(world: World) -> list[tuple[int, int, int]]:
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


def _write_reviews(world: World, purchases: list[tuple[int, int, int]]) -> None:
    choose = Choices(world.seed, REVIEW_STREAM)
    voices = [choose.below(len(PRAISES)) for _ in range(world.num_users)]
    for user, item, time in purchases:
        text, rating, rationale = _write_review(world, choose, voices[user], user, item)
        world.rows.append(
            {
                "reviewerID": world.user_ids[user],
                "asin": world.item_ids[item],
                "reviewText": text,
                "overall": float(rating),
                "summary": choose.pick(SUMMARIES[rating]),
                "unixReviewTime": time,
            }
        )
        world.rationales.append(rationale)


def _write_review(
    world: World, choose: Choices, voice: int, user: int, item: int
) -> tuple[str, int, tuple[str | None, str | None]]:
    """Write one review: its text, its rating, and the rationale that it supports."""
    slots = {
        "product": _product(world.hobby[item], world.place[item]),
        "brand": _brand(world.place[item]),
        "hobby": list(HOBBIES)[world.hobby[item]],
    }
    traits = np.flatnonzero(world.traits[item])
    feeling = float(world.traits[item] @ world.trait_taste[user])
    rating = int(np.clip(4 + round(feeling) + choose.below(3) - 1, 1, 5))
    if choose.chance(0.03):
        rating = 6 - rating  # stars that contradict the words
    kind = choose.random()
    if kind < 0.10:
        return choose.pick(SHORT), rating, (None, None)
    if kind < 0.14:
        return _blemish(choose, " ".join(_idle_remark(choose) for _ in range(2))), rating, (None, None)

    def sentence(templates: tuple[str, ...]) -> str:
        return templates[voice] if choose.chance(0.7) else choose.pick(templates)

    sentences, told_traits, liked, disliked = [], [], [], []
    used = []
    for trait in traits[choose.order(2)][: 1 if choose.chance(0.6) else 2]:
        taste = world.trait_taste[user, trait]
        contradicts = choose.chance(0.05)
        shown = (taste or choose.pick((1.0, -1.0))) * -1.0 if contradicts else taste
        words = TRAITS[trait]
        if shown > 0:
            template, because = sentence(PRAISES), choose.pick(words.praise)
        elif shown < 0:
            template, because = sentence(COMPLAINTS), choose.pick(words.complaint)
        else:
            template, because = sentence(PLAIN), ""
        used.append(template)
        article = "an" if words.adjective[0] in "aeiou" else "a"
        sentences.append(
            template.format(
                **slots,
                adjective=words.adjective,
                a=article,
                A=article.capitalize(),
                because=because,
                Because=because[:1].upper() + because[1:],
            )
        )
        told_traits.append(words.adjective)
        # A sentence against the user's own taste is noise: the truth is not in it.
        if not contradicts and taste:
            (liked if taste > 0 else disliked).append(words.liking)
    told_hobby = choose.chance(0.55)
    if told_hobby:
        sentences.insert(choose.below(2), sentence(HOBBY_TALK).format(**slots))
    if choose.chance(0.3):
        sentences.insert(choose.below(len(sentences) + 1), _idle_remark(choose))
    rationale = (
        _preference(choose, slots["hobby"] if told_hobby else None, liked, disliked),
        _attributes(
            choose,
            slots["product"] if any("{product}" in template for template in used) else "item",
            told_traits,
            slots["hobby"] if told_hobby else None,
        ),
    )
    return _blemish(choose, " ".join(sentences)), rating, rationale


def _idle_remark(choose: Choices) -> str:
    return choose.pick(IDLE).format(day=choose.pick(DAYS), relative=choose.pick(RELATIVES), place=choose.pick(PLACES))


def _preference(choose: Choices, hobby: str | None, liked: list[str], disliked: list[str]) -> str | None:
    told = []
    if liked:
        told.append(f"prefers {' and '.join(liked)}")
    if disliked:
        told.append(f"would rather avoid {' and '.join(disliked)}")
    if hobby:
        told.insert(0, choose.pick((f"enjoys {hobby}", f"spends time on {hobby}")))
    if not told:
        return None
    return f"The user {', '.join(told[:-1])}{' and ' if len(told) > 1 else ''}{told[-1]}."


def _attributes(choose: Choices, product: str, adjectives: list[str], hobby: str | None) -> str:
    told = f"The {product} is {' and '.join(adjectives)}"
    if hobby:
        told += choose.pick((f" and suits {hobby}", f", useful for {hobby}"))
    return told + "."


def _blemish(choose: Choices, text: str) -> str:
    """Now and then swap two letters of a word or drop the capitals, as people in a hurry do."""
    if choose.chance(0.08):
        text = text.lower()
    if choose.chance(0.12):
        words = text.split(" ")
        at = choose.below(len(words))
        word = words[at]
        if len(word) > 4 and word.isalpha():
            words[at] = word[0] + word[2] + word[1] + word[3:]
        text = " ".join(words)
    return text


# --- The best possible ranking -------------------------------------------------------------------------------------


def ceiling(world: World, tables: Tables, split: str = "test") -> dict[str, dict[str, float]]:
    """Score the ranking by true probability: the best that can be expected of any model.

    A model sees ids and histories; this ranking also knows the tastes and the rule of purchase. A model may pass it by
    luck on one user, not in expectation. In both tasks the ranking knows the whole history before the target, though a
    top-N prompt does not show it; a model of top-N must remember its users, and what they bought last it cannot know
    if it is the validation item.

    Parameters
    ----------
    world : World
    tables : Tables
        A dataset built from `world.reviews()`.
    split : str
        "test" or "validation".

    Returns
    -------
    dict
        `{"sequential": {"hr@1", "ndcg@1", ...}, "topn": {...}}` with cut-offs 1, 5 and 10. Sequential ranks all items
        but the user's history; top-N ranks the positive and its negatives.
    """
    if split not in ("validation", "test"):
        raise DatasetError(f"split {split!r}: the ceiling is known for 'validation' and 'test'")
    users, items = _raw_ids(tables.catalog, "user"), _raw_ids(tables.catalog, "item")
    held_out = {"test": 1, "validation": 2}[split]
    all_items = np.array([world.item_number(items[number]) for number in range(1, len(items) + 1)])
    candidates = tables.candidates[split]
    negatives = dict(
        zip(candidates["user"].to_pylist(), candidates["negatives"].combine_chunks().to_pylist(), strict=True)
    )
    sequential, topn = [], []
    for user, bought in zip(
        tables.interactions["user"].to_pylist(), tables.interactions["items"].to_pylist(), strict=True
    ):
        history, target = bought[:-held_out], bought[-held_out]
        scores = world.scores(users[user], [items[item] for item in history])[all_items]
        # Probabilities are sums of many real terms, so two open items never tie; history stands at -inf, below all.
        sequential.append(1 + int((scores > scores[target - 1]).sum()))
        topn.append(1 + int((scores[np.array(negatives[user]) - 1] > scores[target - 1]).sum()))
    return {name: hit_and_ndcg(np.array(ranks), CUTS) for name, ranks in (("sequential", sequential), ("topn", topn))}


def _raw_ids(catalog: pa.Table, kind: str) -> dict[int, str]:
    rows = zip(*(catalog[name].to_pylist() for name in ("kind", "id", "raw_id")), strict=True)
    return {number: raw for row_kind, number, raw in rows if row_kind == kind}


# --- Building ------------------------------------------------------------------------------------------------------


def world_from_info(info: dict[str, Any]) -> World:
    """Remake the world from a `build_info.json`; DatasetError if the dataset is not a sample of this generator."""
    source = info.get("source") or {}
    if source.get("kind") != "sample":
        raise DatasetError(f"dataset {info.get('domain')!r} is not the embedded sample: only that one has a ceiling")
    if source.get("generator") != GENERATOR:
        raise DatasetError("the sample was built by another version of the generator; build it again with --overwrite")
    world = make_world(source["world_seed"], num_users=source["num_users"])
    if world.reviews_sha256() != source["reviews_sha256"]:
        raise DatasetError("the generator no longer gives the reviews of this sample; build it again with --overwrite")
    return world


def build_sample(
    output_dir: str | Path,
    *,
    protocol: str = "clean",
    seed: int = 0,
    world_seed: int = 0,
    rationales: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Build the embedded sample as a dataset folder, or keep the one that is there.

    Parameters
    ----------
    output_dir : str or Path
        A folder that already holds this very sample is left as it is.
    protocol : str
        "clean" or "published".
    seed : int
        Seed of the build: ids, splits, candidates.
    world_seed : int
        Seed of the world. The rationales that ship are those of world 0.
    rationales : {"distilled", "planted"}, optional
        Default: distilled for world 0; another world has no teacher's, so its are planted on the spot.
    overwrite : bool
        Replace an earlier build that differs.

    Returns
    -------
    Path
        The folder.
    """
    world = make_world(world_seed)
    rationales = rationales or ("planted" if world_seed else "distilled")
    if rationales not in FILES or (rationales == "distilled" and world_seed):
        raise DatasetError(
            f"rationales {rationales!r}: world {world_seed} has " + ("planted" if world_seed else " or ".join(FILES))
        )
    source = {
        "kind": "sample",
        "generator": GENERATOR,
        "world_seed": world.seed,
        "num_users": world.num_users,
        "reviews_sha256": world.reviews_sha256(),
        "rationales": rationales,
    }
    if _is_same(Path(output_dir), {"protocol": protocol, "seed": seed, "source": source}):
        return Path(output_dir)
    with tempfile.TemporaryDirectory() as scratch:
        file = FILES[rationales]
        if world_seed:
            file = write_rationales(world.rationale_table(), world, Path(scratch) / file.name)
        elif _written_for(file) != source["reviews_sha256"]:
            raise DatasetError(
                f"{file.name}: written for other reviews than the generator gives; run "
                "`python -m rdrec.sample " + ("plant`" if rationales == "planted" else "export`, distill, adopt")
            )
        item_text = Path(scratch) / "item_text.txt"
        item_text.write_text(
            "".join(f"{raw} {name}\n" for raw, name in zip(world.item_ids, world.names, strict=True)), encoding="utf-8"
        )
        tables = build_tables(
            world.reviews,
            domain="sample",
            protocol=protocol,
            seed=seed,
            rationales=file,
            item_text=item_text,
            source=source,
            progress=False,
        )
    return write_dataset(tables, output_dir, overwrite=overwrite)


def _is_same(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds, undamaged, a sample with the wanted entries in its record."""
    if not (folder / INFO_FILE).is_file():
        return False
    try:
        info = load_tables(folder).info
    except DatasetError:
        return False
    # `source` may have gained entries in the build (the files read); only ours must agree.
    same_source = wanted["source"].items() <= (info.get("source") or {}).items()
    return same_source and (info["protocol"], info["seed"]) == (wanted["protocol"], wanted["seed"])


def write_rationales(table: pa.Table, world: World, path: Path) -> Path:
    """Write rationales of a world, whole or not at all, with the hash of the reviews they are for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"reviews_sha256": world.reviews_sha256()})
    with whole_file(path) as work:
        pq.write_table(table, work, compression="zstd")
    return path


def _written_for(path: Path) -> str | None:
    """The hash of the reviews that a file of rationales was written for."""
    metadata = pq.read_schema(path).metadata or {}
    return metadata.get(b"reviews_sha256", b"").decode() or None


def add_command(subparsers: Any) -> None:
    """Add `sample` to the commands of `python -m dataset_builder`."""
    parser = subparsers.add_parser(
        "sample",
        help="build the embedded sample, whose best possible ranking is known",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", required=True, help="folder to write; a folder with this very sample is kept")
    parser.add_argument("--protocol", choices=("clean", "published"), default="clean", help="see the dataset card")
    parser.add_argument("--seed", type=int, default=0, help="seed of ids, splits and candidates")
    parser.add_argument("--rationales", choices=tuple(FILES), default="distilled", help="a small model's, or the truth")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier build")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    folder = build_sample(
        arguments.output,
        protocol=arguments.protocol,
        seed=arguments.seed,
        rationales=arguments.rationales,
        overwrite=arguments.overwrite,
    )
    tables = load_tables(folder)
    counts = tables.info["counts"]
    best = ceiling(world_from_info(tables.info), tables)
    print(f"{folder}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions")
    for task, scores in best.items():
        print(f"best possible {task}: " + ", ".join(f"{name} {score:.4f}" for name, score in scores.items()))


def adopt(path: str | Path, world: World) -> Path:
    """Ship what distill.py wrote for the reviews that `export_reviews` gave; DatasetError when it is for others."""
    table = pq.read_table(path)
    if table["review_row"].to_pylist() != list(range(len(world.rows))):
        raise DatasetError(f"{path}: not one row a review of the sample; distil the file that `export` writes, whole")
    return write_rationales(table, world, DISTILLED_FILE)


def export_reviews(world: World, path: str | Path) -> Path:
    """Write the reviews as JSON lines, to distil rationales from."""
    lines = "".join(json.dumps(row) + "\n" for row in world.reviews())
    Path(path).write_text(lines, encoding="utf-8")
    return Path(path)


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("plant", "export", "adopt"))
    parser.add_argument("file", nargs="?", help="written by export, read by adopt")
    given = parser.parse_args()
    if (given.file is None) != (given.what == "plant"):
        parser.error(f"{given.what}: takes " + ("no file" if given.what == "plant" else "one file"))
    world = make_world()
    if given.what == "plant":
        print(write_rationales(world.rationale_table(), world, PLANTED_FILE))
    elif given.what == "export":
        print(export_reviews(world, given.file))
    else:
        print(adopt(given.file, world))


def load_tables_of(dataset: str, revision: str | None = None) -> Tables:
    """Read a built dataset; the name `sample` builds the embedded sample in `data/sample` if it is not there yet."""
    if dataset == "sample":
        info_file = Path(SAMPLE_DIR) / INFO_FILE
        # A sample of an older version is replaced; a user's own dataset in that place never is.
        outdated = info_file.is_file() and json.loads(info_file.read_text())["source"].get("kind") == "sample"
        dataset = str(build_sample(SAMPLE_DIR, overwrite=outdated))
    return load_tables(dataset, revision)


if __name__ == "__main__":
    _main()
