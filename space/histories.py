"""What purchase histories tell without a model: example tastes for visitors, and what counting would recommend.

    example_tastes(histories, titles)       # [Taste("Rain jackets", [3, 14, …]), …]
    Counts(histories, num_items).best([3, 14], k=8)

Items are numbered from 1, as in the dataset's catalog.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


SHORTEST, LONGEST = 4, 6  # items of an example
WORD = re.compile(r"[^\W\d_]{3,}")
# A history's last ten items count, each step back in time 0.7 of the one after it: the counting that eval.py compares
# the model with.
LAST_ITEMS, STEP_BACK = 10, 0.7


class Taste(NamedTuple):
    """An example history: a name made of the words that its titles share, and its items, oldest first."""

    name: str
    items: list[int]


def example_tastes(histories: Sequence[Sequence[int]], titles: Sequence[str | None], count: int = 3) -> list[Taste]:
    """Real histories that are easy to tell apart: their titles share words that few other titles have.

    Parameters
    ----------
    histories : sequence of sequences of int
        Training parts, oldest first; each example is the end of one.
    titles : sequence of str or None
        Title of each item, the first item's first; None where there is none.
    """
    words = [set() if title is None else set(WORD.findall(title.casefold())) for title in titles]
    spread = Counter(word for held in words for word in held)
    phrases = {pair for title in titles if title for pair in pairwise(WORD.findall(title.casefold()))}
    ranked = []
    for place, history in enumerate(histories):
        items = list(dict.fromkeys(history))[-LONGEST:]
        if len(items) < SHORTEST:
            continue
        held = Counter(word for item in items for word in words[item - 1])
        worth = {word: n * math.log(len(titles) / spread[word]) for word, n in held.items() if n > 1}
        naming = sorted(worth, key=lambda word: (-worth[word], word))[:2]
        ranked.append((-sum(worth[word] for word in naming), place, naming, items))
    tastes: list[Taste] = []
    taken: set[str] = set()
    for _, _, naming, items in sorted(ranked, key=lambda one: one[:2]):
        if len(tastes) == count:
            break
        if taken & set(naming):
            continue
        taken |= set(naming)
        tastes.append(Taste(_name(naming, phrases) or f"Example {len(tastes) + 1}", items))
    return tastes


def _name(words: list[str], phrases: set[tuple[str, str]]) -> str:
    """Words as they follow each other in some title, else one after the other with a comma."""
    if tuple(words[::-1]) in phrases:
        words = words[::-1]
    return (" " if tuple(words) in phrases else ", ").join(words).capitalize()


class Counts:
    """How often an item came right after another one, and how often it was bought: nothing is learned.

    Parameters
    ----------
    histories : sequence of sequences of int
        Training parts, oldest first.
    num_items : int
        Items of the catalog.
    """

    def __init__(self, histories: Sequence[Sequence[int]], num_items: int):
        bought = Counter(item for history in histories for item in history)
        self.bought = [bought[item] for item in range(1, num_items + 1)]
        self._popular = sorted(range(1, num_items + 1), key=lambda item: (-bought[item], item))
        self._followers: dict[int, Counter] = {}
        for history in histories:
            for before, after in pairwise(history):
                self._followers.setdefault(before, Counter())[after] += 1

    def best(self, history: Sequence[int], k: int) -> list[int]:
        """The k items counted most after those of a history and not among them; ties go to the more popular one, and
        where too few ever followed, the most popular ones follow."""
        scores: dict[int, float] = {}
        for back, item in enumerate(reversed(history[-LAST_ITEMS:])):
            for follower, times in self._followers.get(item, {}).items():
                scores[follower] = scores.get(follower, 0.0) + times * STEP_BACK**back
        order = sorted(scores, key=lambda item: (-round(scores[item], 9), -self.bought[item - 1], item))
        return [item for item in dict.fromkeys([*order, *self._popular]) if item not in history][:k]
