"""`model.explain` as the Space calls it: three voices, a source, how well it is supported, and the evidence.

    recommender.model.explain = explain

For tests of the page alone: sentences name their item, so that a test knows what must stand where.
"""

from typing import NamedTuple


class Sentence(NamedTuple):
    about: str
    kind: str
    review: int | None
    text: str


class Explanation(NamedTuple):
    text: str | None
    source: str | None
    support: float
    evidence: tuple


def explain(tokenizer, user=None, item=None, history=None, voice="explanation", return_evidence=False):
    """What `RDRecGenerationMixin.explain` gives for a list of items, several voices and `return_evidence`."""
    assert return_evidence and not isinstance(voice, str) and not isinstance(item, str)
    assert len(item) == len(history) and (user is None or len(user) == len(item)), "one of each for a question"
    owners = history if user is None else user
    return [{one: _one(name, owner, one) for one in voice} for name, owner in zip(item, owners)]


def _one(item: str, owner, voice: str) -> Explanation:
    if not owner:  # an empty history tells no taste
        return Explanation(None, None, 0.0, ())
    text = {
        "item_attributes": f"It offers what {item} offers.",
        "user_preference": f"You like what goes with {item}.",
        "explanation": f"I bought {item} & <b>it</b> fits.",
    }[voice]
    evidence = Sentence("item", "explanation", 0, f"A reviewer of {item} <i>said</i> so.")
    if voice == "user_preference":
        evidence = Sentence("user", voice, None, "You wrote that it must last.")
    odd = int(item[-3:]) % 2
    return Explanation(text, "evidence" if odd else "beams", 0.9 if odd else 0.2, (evidence,))
