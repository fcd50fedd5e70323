"""Items and users found by what a visitor types: words of a title, or an id, with a "did you mean" for slips.

names = Names({"B004756YJA": "acoustic guitar strings"}, [12])
names.find("gutar strings")        # Found([], 0, "guitar strings")
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


WORD = re.compile(r"\w+")


class Found(NamedTuple):
    """The best `ids`, how many there are in all, and for none what may have been meant."""

    ids: list[str]
    total: int
    did_you_mean: str | None


class Names:
    """What has an id and a title.

    Parameters
    ----------
    titles : mapping of str to str
        Id to title, which is the id again where there is none.
    weights : sequence of numbers
        Of several that fit, those of a greater weight come first; one for each id.
    """

    def __init__(self, titles: Mapping[str, str], weights: Sequence[float]):
        self._entries = [
            (f"{title} {name}".casefold(), name, weight) for (name, title), weight in zip(titles.items(), weights)
        ]
        self._words: list[str] | None = None

    def find(self, typed: str, k: int = 8) -> Found:
        """Those whose title or id holds every typed word; without words, all."""
        words = typed.casefold().split()
        matches = self._matches(words)
        wanted = typed.strip().casefold()
        # The very id first, then whole words before parts of words, then by weight.
        matches.sort(
            key=lambda entry: (
                entry[1].casefold() != wanted,
                -sum(f" {word}" in f" {entry[0]}" for word in words),
                -entry[2],
            )
        )
        suggested = None if matches or not words else self._near(words)
        return Found([name for _, name, _ in matches[:k]], len(matches), suggested)

    def _matches(self, words: list[str]) -> list[tuple[str, str, float]]:
        return [entry for entry in self._entries if all(word in entry[0] for word in words)]

    def _near(self, words: list[str]) -> str | None:
        """The words with each that nothing holds replaced by the most similar one, if something holds all of these."""
        if self._words is None:  # most visitors never need them
            self._words = sorted({word for text, _, _ in self._entries for word in WORD.findall(text)})
        meant = []
        for word in words:
            if not self._matches([word]):
                near = difflib.get_close_matches(word, self._words, n=1)
                if not near:
                    return None
                word = near[0]
            meant.append(word)
        return " ".join(meant) if self._matches(meant) else None
