"""The bare prompts, which inference uses and training begins its wordings with (`rdrec/tasks/wordings.py`).

fill(BARE["sequential"], user=12, items=[3, 45])      # "user_12 item_3 item_45"
fill(BARE["sequential"], items=[3, 45])               # "item_3 item_45": nobody is named
"""

from collections.abc import Sequence


# `{user}` is `user_12`, `{item}` and `{items}` are `item_34` and `item_3 item_45 …` (paper, section 3.2).
BARE = {
    "explanation": "{user} {item}",
    "sequential": "{user} {items}",
    "topn": "{user} {items}",
    "user_preference": "{user}",
    "item_attributes": "{item}",
}


def fill(wording: str, user: int | None = None, items: Sequence[int] = ()) -> str:
    """The prompt that a wording gives for these integer ids.

    Parameters
    ----------
    wording : str
        With any of the fields `{user}`, `{item}`, `{items}`.
    user : int, optional
        Without one, its field is left out.
    items : sequence of int
        The item of an explanation, the history or the candidates.
    """
    words = " ".join(f"item_{item}" for item in items)
    named = "" if user is None else f"user_{user}"
    return wording.format(user=named, item=words, items=words).strip()


__all__ = ["BARE", "fill"]
