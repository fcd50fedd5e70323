"""Evidence: what training reviews say of items and users, as a table that travels with a checkpoint.

    evidence = tokenizer.evidence                              # None where a checkpoint has none
    found = evidence.of("item", [34], OF_ITEM, without=812)    # rows of the table: what others' reviews say of an item
    evidence.texts(found)

An explanation is to rest on what is known. What is known of an item are sentences of its reviews (the rationale's
attributes, the explanation sentence) and its catalog text; of a user, those of the user's reviews. A training row is
made in the same way without the review that it is to guess.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .prompts import fill


KINDS = ("item_attributes", "user_preference", "explanation", "catalog")
# Of which kinds of sentences an item, or a user, is known.
OF_ITEM, OF_USER = ("item_attributes", "explanation", "catalog"), ("user_preference", "explanation")
# The kinds of sentences that each voice may speak with, and whose they are.
VOICES = {
    "explanation": (("explanation",), "item"),
    "item_attributes": (("item_attributes", "catalog"), "item"),
    "user_preference": (("user_preference",), "user"),
}
# Sentences of one item or user that are looked at, the latest; and those of them that stand in a prompt or are weighed.
MOST_SENTENCES, IN_PROMPT, CANDIDATES = 64, 3, 12
# Words of a sentence, or of a catalog text, that are kept.
LONGEST_SENTENCE = 40
_WHOLE_WORD = re.compile(r"\b(user|item)_(?=\d)")
SENTENCE = np.dtype([("user", "<i4"), ("item", "<i4"), ("review", "<i8"), ("kind", "u1"), ("end", "<i8")])


class Sentence(NamedTuple):
    """A sentence that an explanation rests on.

    `about` is "item" or "user", `kind` one of `KINDS`, `review` the row of the review in the texts that the model was
    fitted on (the dataset's `rationales`, split after split; None for a catalog text), `text` the sentence.
    """

    about: str
    kind: str
    review: int | None
    text: str


class Explanation(NamedTuple):
    """A sentence of `explain` and what it rests on.

    `text` is None where nothing is known of what was asked. `source` says where the sentence comes from: "evidence" (a
    sentence of a review), "beams" (written by the model) or None. `support` is the share of what it says that (other)
    reviews of the item say too, from 0 to 1.
    """

    text: str | None
    source: str | None
    support: float
    evidence: tuple[Sentence, ...]


class EvidenceTable:
    """Sentences about users and items.

    Parameters
    ----------
    rows : np.ndarray
        Of type `SENTENCE` `[sentences]`, in order of reviews: whose review, of which item (0: of nobody, none), its row
        (-1: a catalog text), the kind (place in `KINDS`), and where the sentence ends in `content`.
    content : np.ndarray
        uint8 `[bytes]`: all sentences end to end, in UTF-8.
    """

    def __init__(self, rows: np.ndarray, content: np.ndarray):
        self.rows, self.content = rows, content
        self._pieces: dict[int, np.ndarray] = {}
        self._weights: np.ndarray | None = None
        self._usual_content: float | None = None
        self._order, self._sorted = {}, {}
        for name in ("user", "item"):
            self._order[name] = np.argsort(rows[name], kind="stable")
            self._sorted[name] = rows[name][self._order[name]]

    @classmethod
    def build(cls, sentences: Sequence[tuple[int, int, int, str, str]]) -> "EvidenceTable":
        """From (user, item, review, kind, text) in order of reviews; empty texts are left out, long ones cut."""
        kept = [one for one in sentences if one[4] and one[4].strip()]
        parts = [" ".join(one[4].split()[:LONGEST_SENTENCE]).encode("utf-8", "replace") for one in kept]
        rows = np.zeros(len(kept), dtype=SENTENCE)
        for place, (user, item, review, kind, _) in enumerate(kept):
            rows[place] = (user, item, review, KINDS.index(kind), 0)
        rows["end"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
        return cls(rows, np.frombuffer(b"".join(parts), dtype=np.uint8))

    def with_items(self, first: int, texts: Sequence[str]) -> "EvidenceTable":
        """This table and a catalog text for each new item, numbered from `first`."""
        new = self.build([(0, item, -1, "catalog", text) for item, text in enumerate(texts, first)])
        new.rows["end"] += len(self.content)
        return EvidenceTable(np.concatenate([self.rows, new.rows]), np.concatenate([self.content, new.content]))

    def text(self, row: int) -> str:
        """The sentence of a row."""
        start = self.rows["end"][row - 1] if row else 0
        return self.content[start : self.rows["end"][row]].tobytes().decode("utf-8")

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The sentences of rows."""
        return [self.text(int(row)) for row in rows]

    def of(self, about: str, ids: Sequence[int], kinds: Sequence[str], without: int | None = None) -> np.ndarray:
        """Rows about some items or users (`about` "item" or "user"): the latest `MOST_SENTENCES`, none twice; int64.

        Parameters
        ----------
        without : int, optional
            The review that nothing may be taken from.
        """
        order, ids = self._order[about], np.array([one for one in ids if one > 0], dtype=np.int64)
        starts, ends = (np.searchsorted(self._sorted[about], ids, side=side) for side in ("left", "right"))
        rows = [order[start:end] for start, end in zip(starts, ends)]
        rows = np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))
        rows = rows[np.isin(self.rows["kind"][rows], [KINDS.index(kind) for kind in kinds])]
        if without is not None:
            rows = rows[self.rows["review"][rows] != without]
        said, found = set(), []
        for row in rows[::-1].tolist():
            sentence = (int(self.rows["kind"][row]), self.text(row))
            if sentence not in said:
                said.add(sentence)
                found.append(row)
                if len(found) == MOST_SENTENCES:
                    break
        return np.array(found[::-1], dtype=np.int64)

    # --- words -------------------------------------------------------------------------------------------------------

    def pieces(self, tokenizer, rows: Sequence[int]) -> list[np.ndarray]:
        """The pieces of the vocabulary that each row's sentence is written with, each once: int64 `[pieces]` each."""
        unread = [int(row) for row in rows if int(row) not in self._pieces]
        if unread:
            for row, found in zip(unread, distinct_pieces(tokenizer, self.texts(unread))):
                self._pieces[row] = found
        return [self._pieces[int(row)] for row in rows]

    def weights(self, tokenizer) -> np.ndarray:
        """What each piece tells: the square of log(sentences / sentences that hold it), float32 `[vocabulary]`.

        "the" stands in most sentences and weighs next to nothing.
        """
        if self._weights is None:
            counts = np.zeros(len(tokenizer))
            sample = self._sample()
            for row in self.pieces(tokenizer, sample):
                counts[row] += 1
            self._weights = (np.log((len(sample) + 1) / (counts + 0.5)).clip(min=0) ** 2).astype(np.float32)
        return self._weights

    def usual_content(self, tokenizer) -> float:
        """What the pieces of a sentence weigh together, the median over the table's; above 0."""
        if self._usual_content is None:
            weights = self.weights(tokenizer)
            said = [float(weights[one].sum()) for one in self.pieces(tokenizer, self._sample())]
            self._usual_content = (float(np.median(said)) if said else 0.0) or 1.0
        return self._usual_content

    def _sample(self) -> np.ndarray:
        """Rows, of a large table some, that tell how common a piece is."""
        return np.unique(np.linspace(0, max(len(self.rows) - 1, 0), 20_000, dtype=np.int64))[: len(self.rows)]

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as one compressed `.npz` file."""
        with open(path, "wb") as file:
            np.savez_compressed(file, rows=self.rows, content=self.content)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "EvidenceTable":
        """Read a saved file.

        Raises
        ------
        ValueError
            For a file that holds no evidence.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                rows, content = stored["rows"], stored["content"]
            if rows.dtype != SENTENCE or rows.ndim != 1 or content.dtype != np.uint8 or content.ndim != 1:
                raise ValueError(f"{rows.dtype} {rows.shape}, {content.dtype} {content.shape}")
            # Sentences follow each other, and none begins or ends within a letter.
            ends = rows["end"]
            begins_in_letter = (content[ends[(ends >= 0) & (ends < len(content))]] & 0xC0) == 0x80
            if (np.diff(np.concatenate([[0], ends, [len(content)]])) < 0).any() or begins_in_letter.any():
                raise ValueError("its sentences overlap")
            if (rows["kind"] >= len(KINDS)).any():
                raise ValueError("a kind of sentence that is none")
            content.tobytes().decode("utf-8")
        except Exception as error:  # a damaged archive can fail in any way
            raise ValueError(f"{path}: no table of evidence ({error}): get it anew") from error
        return cls(rows, content)


class Known(NamedTuple):
    """What is known for one question: rows of the table, the most telling first (int64)."""

    item: np.ndarray
    user: np.ndarray
    candidates: np.ndarray


def retrieve(
    table: EvidenceTable,
    tokenizer,
    voice: str,
    user: int | None,
    item: int | None,
    history: Sequence[int] = (),
    without: int | None = None,
) -> Known:
    """What is known of an item and of who asks, and the sentences that could be the answer.

    An item's sentences are in order of how much of what they say the user's say too, and the user's in order of how
    much of theirs is said of the item; so what both have in common comes first.

    Parameters
    ----------
    voice : str
        One of `VOICES`.
    user, item : int or None
        Internal ids. Without a user, or one without a review, buyers of the items of `history` stand in.
    without : int, optional
        A review that is not to be used: the one that a training row is to guess.
    """
    kinds, about = VOICES[voice]
    of_item = table.of("item", [] if item is None else [item], OF_ITEM, without)
    of_user = table.of("user", [] if user is None else [user], OF_USER, without)
    if not len(of_user):
        of_user = table.of("item", [one for one in history if one != item], OF_USER, without)
    weights = table.weights(tokenizer)
    said = {"item": table.pieces(tokenizer, of_item), "user": table.pieces(tokenizer, of_user)}
    profile = {name: _profile(pieces, weights) for name, pieces in said.items()}
    of_item = of_item[_order(said["item"], profile["user"], weights)]
    of_user = of_user[_order(said["user"], profile["item"], weights)]
    own = of_item if about == "item" else of_user
    wanted = own[np.isin(table.rows["kind"][own], [KINDS.index(kind) for kind in kinds])]
    return Known(of_item, of_user, wanted[:CANDIDATES])


def prompt(table: EvidenceTable, wording: str, known: Known, user: int | None, item: int | None) -> str:
    """A prompt with the evidence behind it: "user_12 item_34 : what the user says / what is said of the item".

    A wording that names no item, or no user, is followed by what is known of the other alone.
    """
    parts = []
    for field, rows in (("{user}", known.user), ("{item}", known.item)):
        if field in wording:
            # A sentence of a review may be half of its rationale too.
            parts.append(" ".join([*dict.fromkeys(table.texts(rows))][:IN_PROMPT]))
    # A review that speaks of "item_5" means no item of ours.
    said = _WHOLE_WORD.sub(r"\1 ", " / ".join(parts))
    return f"{fill(wording, user, [] if item is None else [item])} : {said}"


def distinct_pieces(tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """The pieces of each text in lower case, each once, without those that are unknown: int64 `[pieces]` each."""
    encoded = tokenizer([text.lower() for text in texts], add_special_tokens=False)["input_ids"] if texts else []
    unknown = tokenizer.unk_token_id
    return [np.array([one for one in dict.fromkeys(row) if one != unknown], dtype=np.int64) for row in encoded]


def _profile(said: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """How much sentences speak of each piece: its weight times the root of their number, float32 `[vocabulary]`."""
    counts = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *said]), minlength=len(weights))
    return np.sqrt(counts).astype(np.float32) * weights


def _order(said: Sequence[np.ndarray], profile: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Places of sentences by what a profile shares of them, most first; equal ones latest first."""
    shared = [float(profile[row].sum()) / (float(weights[row].sum()) + 1e-6) ** 0.5 for row in said]
    return len(said) - 1 - np.argsort(-np.array(shared[::-1]), kind="stable")


__all__ = ["Explanation", "EvidenceTable", "Sentence", "VOICES", "prompt", "retrieve"]
