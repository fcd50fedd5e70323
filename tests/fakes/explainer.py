"""`model.explain` as the Space calls it: three voices, a source, how well it is supported, and the evidence.

    recommender.model.explain = explain

For tests of the page alone: sentences name their item, so that a test knows what must stand where.
"""

from typing import NamedTuple


class Evidence(NamedTuple):
    text: str
    about: str
    review: int | None


class Explanation(NamedTuple):
    text: str | None
    source: str | None
    support: float
    evidence: tuple


def explain(tokenizer, user=None, item=None, history=None, voice="explanation", return_evidence=False):
    single = isinstance(item, str)
    items = [item] if single else item
    owners = [user or history] if single else (user or history)
    assert len(items) == len(owners), "one user or history an item"
    made = [_one(name, owner, voice) for name, owner in zip(items, owners)]
    answers = made if return_evidence else [one.text for one in made]
    return answers[0] if single else answers


def _one(item: str, owner, voice: str) -> Explanation:
    if not owner:  # an empty history tells no taste
        return Explanation(None, None, 0.0, ())
    number = int(item[-3:])
    text = {
        "item_attributes": f"It offers what {item} offers.",
        "user_preference": f"You like what goes with {item}.",
        "explanation": f"I bought {item} & <b>it</b> fits.",
    }[voice]
    evidence = [Evidence(f"A reviewer of {item} <i>said</i> so.", "item", None)]
    if voice == "user_preference":
        evidence = [Evidence("You wrote that it must last.", "user", None)]
    return Explanation(text, "evidence" if number % 2 else "beams", 0.9 if number % 2 else 0.2, tuple(evidence))
