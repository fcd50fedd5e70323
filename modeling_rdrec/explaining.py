"""Explanations that rest on evidence: candidates from what reviews say and from what the model writes, and the choice.

    for weighed in weigh(model, tokenizer, questions, "explanation", min_length=10, max_length=21):
        best = choose(weighed, model.config.evidence_weight)

Every sentence that could be the answer is scored in the same way: the mean log-probability with which the model would
have written it, its support, the share of what it says that other reviews of the item say too, and its match, the share
that the user's reviews say. Both count by the sentence's content: general praise is always supported, since it says
next to nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from .evidence import (
    IN_PROMPT,
    KINDS,
    VOICES,
    Explanation,
    Known,
    Sentence,
    distinct_pieces,
    prompt,
    retrieve,
)
from .fast_linear import fast_linear
from .prompts import BARE, fill
from .search import score_sentences, write
from .tree_decoder import TreeDecoder


SOURCES = ("evidence", "beams")
MIN_EXPLANATION_LENGTH, MAX_EXPLANATION_LENGTH = 10, 21  # tokens, the start token included
NO_REPEAT = 3  # tokens in a row; without evidence sentences are written as in the paper, which lets them repeat
# The paper's 21 beams in 3 groups without a diversity penalty are 7 (section 4.1). Beside quotations 3 are as good on
# validation, better supported and faster: more beams mostly say the same in other words.
BEAMS, BEAMS_BESIDE_EVIDENCE = 7, 3
LEAST_SUPPORT = 0.5  # of what the model writes, to be weighed beside sentences that have it
READ = 3  # sentences of reviews, those worth most, that the model reads for a question: as good as twelve


class Question(NamedTuple):
    """Who asks about which item: internal ids; the history stands in for a user of whom nothing is known."""

    user: int | None
    item: int | None
    history: Sequence[int] = ()


class Candidates(NamedTuple):
    """The sentences that could answer one question: texts, where each is from (a row of the table of evidence, -1: the
    beams), float64 `[candidates]` mean log-probabilities, supports, matches and contents, each of these three from 0 to
    1; and what is known."""

    texts: list[str]
    rows: list[int]
    likelihood: np.ndarray
    support: np.ndarray
    match: np.ndarray
    content: np.ndarray
    known: Known | None

    def worth(self) -> np.ndarray:
        """How much of what each says is true of the item and matters to the user: float64 `[candidates]`, 0 to 2."""
        return self.content * (self.support + self.match)


@torch.inference_mode()
def weigh(
    model,
    tokenizer,
    questions: Sequence[Question],
    voice: str,
    sources: Sequence[str] = SOURCES,
    num_beams: int | None = None,
    min_length: int = MIN_EXPLANATION_LENGTH,
    max_length: int = MAX_EXPLANATION_LENGTH,
) -> list[Candidates]:
    """The candidates of each question; without a table of evidence those of the beams alone, without support."""
    table = tokenizer.evidence if model.config.reads_evidence else None
    if num_beams is None:
        num_beams = BEAMS if table is None else BEAMS_BESIDE_EVIDENCE
    bare = BARE[voice]
    if table is None:
        known: list[Known | None] = [None] * len(questions)
        texts = [fill(bare, one.user, [] if one.item is None else [one.item]) for one in questions]
    else:
        known = [retrieve(table, tokenizer, voice, *one) for one in questions]
        texts = [prompt(table, bare, what, one.user, one.item) for what, one in zip(known, questions)]
    answers: list[Candidates | None] = [None] * len(questions)
    with fast_linear():
        for places, states, mask in model.encoded_prompts(tokenizer, voice, texts):
            about = [known[place] for place in places]
            found: list[list[Candidates]] = []
            if table is not None and "evidence" in sources:
                decoder = TreeDecoder(model, states, mask, max_length)
                found.append(_quoted(model, tokenizer, table, about, decoder, max_length))
            if "beams" in sources:
                decoder = TreeDecoder(model, states, mask, max_length)
                beams = write(model, decoder, num_beams, min_length, max_length, NO_REPEAT if table is not None else 0)
                found.append(_written(tokenizer, table, about, beams))
            for place, *parts in zip(places, *found):
                answers[place] = _together(parts)
    return answers


def _quoted(model, tokenizer, table, known, decoder: TreeDecoder, max_length: int) -> list[Candidates]:
    """What reviews say already, of each question; the model reads those alone that are worth most."""
    found = []
    for one in known:
        rows = one.candidates
        every = _weighed(table, tokenizer, table.pieces(tokenizer, rows), rows.tolist(), one)
        best = np.sort(np.argsort(-every.worth(), kind="stable")[:READ])
        amounts = (column[best] for column in (every.support, every.match, every.content))
        found.append(Candidates(table.texts(rows[best]), rows[best].tolist(), every.likelihood[best], *amounts, one))
    texts = [text for one in found for text in one.texts]
    if not texts:
        return found
    # Cut as targets are in training; the start token counts in `max_length`.
    encoded = iter(tokenizer(texts, truncation=True, max_length=max_length - 1)["input_ids"])
    scores = score_sentences(model, decoder, [[next(encoded) for _ in one.texts] for one in found])
    return [one._replace(likelihood=np.array(means)) for one, means in zip(found, scores)]


def _written(tokenizer, table, known, beams) -> list[Candidates]:
    """What the model writes, of each question."""
    texts = [tokenizer.batch_decode([tokens for tokens, _ in one], skip_special_tokens=True) for one in beams]
    # All of them are read in one go; the pieces of reviews' sentences are known.
    pieces = iter([] if table is None else distinct_pieces(tokenizer, [text for one in texts for text in one]))
    found = []
    for what, sentences, one in zip(known, texts, beams):
        of_each = [] if table is None else [next(pieces) for _ in sentences]
        weighed = _weighed(table, tokenizer, of_each, [-1] * len(sentences), what)
        likelihood = np.array([score for _, score in one])
        found.append(weighed._replace(texts=[text.strip() for text in sentences], likelihood=likelihood))
    return found


def _weighed(table, tokenizer, pieces, rows: list[int], known: Known | None) -> Candidates:
    """Support, match and content of sentences, given the pieces of each and where it is from; no texts yet."""
    zeros = np.zeros(len(rows))
    if table is None:
        return Candidates([], rows, zeros, zeros, zeros, zeros, known)
    weights = table.weights(tokenizer)
    totals = np.array([float(weights[one].sum()) for one in pieces])
    support = _shares(table, tokenizer, pieces, rows, totals, known.item)
    match = _shares(table, tokenizer, pieces, rows, totals, known.user)
    content = totals / (totals + table.usual_content(tokenizer))
    return Candidates([], rows, zeros, support, match, content, known)


def _shares(table, tokenizer, pieces, rows: list[int], totals: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """The share of what each sentence says that evidence says too: for a review's sentence, that of other reviews."""
    weights, said = table.weights(tokenizer), table.pieces(tokenizer, evidence)
    reviews = table.rows["review"][evidence]
    nothing = np.zeros(0, dtype=np.int64)
    counts = np.bincount(np.concatenate([nothing, *said]), minlength=len(weights))
    shares = np.zeros(len(rows))
    for place, (row, one) in enumerate(zip(rows, pieces)):
        others = counts[one]
        if row >= 0:
            own = [said[other] for other in np.flatnonzero(reviews == table.rows["review"][row])]
            others = others - np.bincount(np.concatenate([nothing, *own]), minlength=len(weights))[one]
        if totals[place] > 0:
            shares[place] = float(weights[one[others > 0]].sum()) / totals[place]
    return shares


def _together(parts: list[Candidates]) -> Candidates:
    """The candidates of several sources for one question."""
    texts, rows, *amounts, known = zip(*parts)
    return Candidates(sum(texts, []), sum(rows, []), *map(np.concatenate, amounts), known[0])


def choose(found: Candidates, weight: float, source: str | None = None, voice: str = "explanation") -> int | None:
    """The place of the best candidate, of `source` ("evidence", "beams") alone if given; None where there is none.

    The most likely where `weight` is 0; otherwise what it is worth counts so much, and what the model writes has to be
    true by half (`LEAST_SUPPORT`) of whom the voice speaks of, the item or the user, unless nothing is: by worth alone
    a sentence about the item that says the user's words could win.
    """
    written = np.array(found.rows) < 0
    scores = found.likelihood + weight * found.worth()
    if source is not None:
        scores = np.where(written == (source == "beams"), scores, -np.inf)
    if weight:
        said = found.support if VOICES[voice][1] == "item" else found.match
        true = np.where(written & (said < LEAST_SUPPORT), -np.inf, scores)
        scores = true if np.isfinite(true).any() else scores
    return int(scores.argmax()) if np.isfinite(scores).any() else None


def explained(table, found: Candidates, place: int | None, voice: str) -> Explanation:
    """The answer with what it rests on: the review that says it first, then what stood in the prompt."""
    known = found.known
    if place is None or (known is not None and not len(getattr(known, VOICES[voice][1]))):
        return Explanation(None, None, 0.0, ())
    chosen, evidence = found.rows[place], []
    if known is not None:
        about = VOICES[voice][1]
        rows = [(about, chosen)] if chosen >= 0 else []
        rows += [("item", int(row)) for row in known.item[:IN_PROMPT]]
        rows += [("user", int(row)) for row in known.user[:IN_PROMPT]]
        evidence = [_sentence(table, *one) for one in dict.fromkeys(rows)]
    return Explanation(
        found.texts[place], "beams" if chosen < 0 else "evidence", float(found.support[place]), tuple(evidence)
    )


def _sentence(table, about: str, row: int) -> Sentence:
    review = int(table.rows["review"][row])
    return Sentence(about, KINDS[table.rows["kind"][row]], None if review < 0 else review, table.text(row))


__all__ = ["SOURCES", "Candidates", "Question", "choose", "explained", "weigh"]
