"""Explanations that rest on evidence: candidates from what reviews say and from what the model writes, and the choice.

    for weighed in weigh(model, tokenizer, questions, num_beams=7, min_length=10, max_length=21):
        best = choose(weighed, model.config.evidence_weight)

Every sentence that could be the answer is scored in the same way: the mean log-probability with which the model would
have written it, its support, the share of what it says that other reviews of the item say too, and its match, the share
that the user's reviews say.
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


class Question(NamedTuple):
    """Who asks about which item: internal ids; the history stands in for a user of whom nothing is known."""

    user: int | None
    item: int | None
    history: Sequence[int] = ()


class Candidates(NamedTuple):
    """The sentences that could answer one question: texts, where each is from (a row of the table of evidence, -1: the
    beams), float64 `[candidates]` mean log-probabilities, supports and matches; and what is known."""

    texts: list[str]
    rows: list[int]
    likelihood: np.ndarray
    support: np.ndarray
    match: np.ndarray
    known: Known | None


@torch.inference_mode()
def weigh(
    model,
    tokenizer,
    questions: Sequence[Question],
    voice: str,
    sources: Sequence[str],
    num_beams: int,
    min_length: int,
    max_length: int,
) -> list[Candidates]:
    """The candidates of each question; without a table of evidence those of the beams alone, without support."""
    table = tokenizer.evidence if model.config.reads_evidence else None
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
            found = [([], [], []) for _ in places]  # texts, rows, log-probabilities
            if table is not None and "evidence" in sources:
                _add_evidence(
                    model, tokenizer, table, [known[place] for place in places], states, mask, max_length, found
                )
            if "beams" in sources:
                decoder = TreeDecoder(model, states, mask, max_length)
                for one, beams in zip(found, write(model, decoder, num_beams, min_length, max_length)):
                    written = tokenizer.batch_decode([tokens for tokens, _ in beams], skip_special_tokens=True)
                    for text, (_, score) in zip(written, beams):
                        one[0].append(text.strip())
                        one[1].append(-1)
                        one[2].append(score)
            if table is not None:
                # What is written is read in one go; the pieces of reviews' sentences are known.
                written = [text for one in found for text, row in zip(*one[:2]) if row < 0]
                new = iter(distinct_pieces(tokenizer, written))
            for place, (sentences, rows, scores) in zip(places, found):
                support, match = np.zeros(len(sentences)), np.zeros(len(sentences))
                if table is not None:
                    pieces = [next(new) if row < 0 else table.pieces(tokenizer, [row])[0] for row in rows]
                    support = _shares(table, tokenizer, pieces, rows, known[place].item)
                    match = _shares(table, tokenizer, pieces, rows, known[place].user)
                answers[place] = Candidates(sentences, rows, np.array(scores), support, match, known[place])
    return answers


def _add_evidence(model, tokenizer, table, known, states, mask, max_length, found) -> None:
    wanted = [[table.text(row) for row in one.candidates] for one in known]
    flat = [text for texts in wanted for text in texts]
    if not flat:
        return
    # Cut as targets are in training; the start token counts in `max_length`.
    encoded = iter(tokenizer(flat, truncation=True, max_length=max_length - 1)["input_ids"])
    tokens = [[next(encoded) for _ in texts] for texts in wanted]
    scores = score_sentences(model, TreeDecoder(model, states, mask, max_length), tokens)
    for one, what, texts, means in zip(found, known, wanted, scores):
        one[0].extend(texts)
        one[1].extend(what.candidates.tolist())
        one[2].extend(means)


def _shares(table, tokenizer, sentences, rows, evidence: np.ndarray) -> np.ndarray:
    """The share of what each sentence says that evidence says too: for a review's sentence, that of other reviews."""
    weights, said = table.weights(tokenizer), table.pieces(tokenizer, evidence)
    reviews = table.rows["review"][evidence]
    nothing = np.zeros(0, dtype=np.int64)
    counts = np.bincount(np.concatenate([nothing, *said]), minlength=len(weights))
    shares = np.zeros(len(rows))
    for place, (row, pieces) in enumerate(zip(rows, sentences)):
        total, others = float(weights[pieces].sum()), counts[pieces]
        if row >= 0:
            own = [said[one] for one in np.flatnonzero(reviews == table.rows["review"][row])]
            others = others - np.bincount(np.concatenate([nothing, *own]), minlength=len(weights))[pieces]
        if total > 0:
            shares[place] = float(weights[pieces[others > 0]].sum()) / total
    return shares


def choose(found: Candidates, weight: float, source: str | None = None) -> int | None:
    """The place of the best candidate, of `source` ("evidence", "beams") alone if given; None where there is none.

    The most likely where `weight` is 0; otherwise support and match count so much.
    """
    scores = found.likelihood + weight * (found.support + found.match)
    if source is not None:
        scores = np.where((np.array(found.rows) < 0) == (source == "beams"), scores, -np.inf)
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
