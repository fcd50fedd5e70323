"""The reviews of the sample: written from taste and traits, with noise, each with the rationale that it gives away.

    write_reviews(world, draw_purchases(world))     # fills world.rows and world.rationales

The noise: idle remarks, reviews of one word, typos, and sentences that contradict the user's own taste. The rationale
of a review says what of the truth the review gives away, and nothing else.
"""

import numpy as np

from .world import HOBBIES, REVIEW_STREAM, TRAITS, Choices, World, brand_of, product_of


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


def write_reviews(world: World, purchases: list[tuple[int, int, int]]) -> None:
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
        "product": product_of(world.hobby[item], world.place[item]),
        "brand": brand_of(world.place[item]),
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

    sentences, told_traits, liked, disliked, names_product = [], [], [], [], False
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
        names_product = names_product or "{product}" in template
        sentences.append(_filled(template, words.adjective, because, slots))
        told_traits.append(words.adjective)
        # A sentence against the user's own taste is noise: the truth is not in it.
        if not contradicts and taste:
            (liked if taste > 0 else disliked).append(words.liking)
    told_hobby = choose.chance(0.55)
    if told_hobby:
        sentences.insert(choose.below(2), sentence(HOBBY_TALK).format(**slots))
    if choose.chance(0.3):
        sentences.insert(choose.below(len(sentences) + 1), _idle_remark(choose))
    hobby = slots["hobby"] if told_hobby else None
    product = slots["product"] if names_product else "item"
    rationale = _preference(choose, hobby, liked, disliked), _attributes(choose, product, told_traits, hobby)
    return _blemish(choose, " ".join(sentences)), rating, rationale


def _filled(template: str, adjective: str, because: str, slots: dict[str, str]) -> str:
    article = "an" if adjective[0] in "aeiou" else "a"
    return template.format(
        **slots,
        adjective=adjective,
        a=article,
        A=article.capitalize(),
        because=because,
        Because=because[:1].upper() + because[1:],
    )


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
