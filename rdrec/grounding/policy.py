"""Policy: what is done about a half of a rationale that is not good enough, by its score and its flags.

    apply_policy(rows, reviews, Policy(asks=1), ask)

A half is rejected on a score below the threshold or on one of the flags in `REJECTING`. Nothing here asks a server:
whoever re-asks hands `apply_policy` a function (`Ask`), and whoever judges another (`Judge`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dataset_builder.explanations import MAX_WORDS, MIN_WORDS, OPINIONS, clean_text, sentences
from dataset_builder.rationales import RATIONALE_TASKS
from rdrec.errors import DatasetError

from .flags import CUT_OFF, EMPTY, OFF_FORMAT, HalfAudit, audit_halves, audit_rows, informs
from .score import words_of


REJECTING = frozenset(
    {EMPTY, OFF_FORMAT, CUT_OFF, "copied_whole", "contradicts", "misattributed", "judged_unsupported"}
)
CHOICES = ("kept", "asked_again", "own_sentence", "left_empty")
FALLBACKS = ("sentence", "empty")

KEEP = 0.75  # score from which the policy keeps a half


@dataclass(frozen=True)
class Policy:
    """What is done about a half that is not good enough.

    Attributes
    ----------
    threshold : float
        Score from which a half is kept. Stricter than an even chance: of what a small teacher wrote and 0.5 let pass,
        two in five halves were judged ungrounded by hand (`research/ungrounded_rate.py`).
    asks : int
        How often a review is asked again at most.
    fallback : {"sentence", "empty"}
        When asking did not help: a sentence of the review that can stand for the half, or nothing, so that the
        rationale task skips the half. `sentence` leaves empty, too, where the review has none that fits.
    """

    threshold: float = KEEP
    asks: int = 1
    fallback: str = "sentence"

    def __post_init__(self) -> None:
        if self.fallback not in FALLBACKS:
            raise DatasetError(f"fallback {self.fallback!r}: unknown; choose one of {', '.join(FALLBACKS)}")

    def keeps(self, audit: HalfAudit) -> bool:
        """Whether a half is good enough."""
        return audit.score >= self.threshold and not REJECTING.intersection(audit.flags)


class AskAgain(NamedTuple):
    """A review to ask again: its row, its text, which attempt this is (1, 2, ...), and the halves still wanted."""

    review_row: int
    review: str
    attempt: int
    halves: tuple[str, ...]


Answer = Mapping[str, str | None]  # by the names in RATIONALE_TASKS; one that is missing or None was not answered
# All reviews of one attempt at once, so that they can be asked side by side; one answer to each, in their order.
Ask = Callable[[Sequence[AskAgain]], Sequence[Answer]]
# Reviews and a half of each; whether each half is supported.
Judge = Callable[[Sequence[str], Sequence[str]], Sequence[bool]]


def apply_policy(
    rows: Sequence[Mapping[str, Any]],
    reviews: Sequence[str],
    policy: Policy,
    ask: Ask | None = None,
    *,
    judge: Judge | None = None,
    audits: Sequence[HalfAudit] | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Keep, ask again, fall back or leave empty, half by half.

    Parameters
    ----------
    rows : sequence of mappings
        `review_row`, `user_preference`, `item_attributes` and whatever else; the rest is handed on.
    reviews : sequence of str
        The whole review of each row.
    policy : Policy
    ask : callable, optional
        Asks the teacher again; without it nothing is asked.
    judge : callable, optional
        Says of the halves that the score would keep whether the review supports them; the others are not kept.
    audits : sequence of HalfAudit, optional
        What `audit_rows` found, when that is known already.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of dict
        The rows, with for each half H: `H` (None where left empty), `H_grounding` (None where empty; 1 for the review's
        own sentence), `H_flags` (of the text that stands there now), `H_choice` (one of `CHOICES`) and `H_asks` (how
        often it was asked again).

    Raises
    ------
    DatasetError
        Not one review to each row, or `ask` gave another number of answers than it was asked for.
    """
    if len(rows) != len(reviews):
        raise DatasetError(f"{len(rows)} rows and {len(reviews)} reviews; give one review to each row")
    if audits is None:
        audits = audit_rows(rows, reviews, progress=progress)
    settled: dict[tuple[int, str], dict[str, Any]] = {}
    asked: dict[tuple[int, str], int] = {}
    wanted: list[tuple[int, str]] = []
    places = [(place, half) for place in range(len(rows)) for half in RATIONALE_TASKS]
    audits = _judged(judge, policy, [reviews[p] for p, _ in places], [rows[p][half] for p, half in places], audits)
    for key, audit in zip(places, audits, strict=True):
        if policy.keeps(audit):
            settled[key] = _settled(rows[key[0]][key[1]], audit.score, audit.flags, "kept")
        else:
            wanted.append(key)

    for attempt in range(1, policy.asks + 1 if ask is not None else 1):
        requests = _requests(rows, reviews, wanted, attempt)
        if not requests:
            break
        tried = [(place, half) for place, request in requests.items() for half in request.halves]
        asked.update(dict.fromkeys(tried, attempt))
        answers = _answers(ask, requests)
        texts, halves = [reviews[place] for place, _ in tried], [answers[place].get(half) for place, half in tried]
        audits = audit_halves(texts, halves, [half for _, half in tried], progress=progress)
        audits = _judged(judge, policy, texts, halves, audits)
        for key, half, audit in zip(tried, halves, audits, strict=True):
            if policy.keeps(audit):
                settled[key] = _settled(half, audit.score, audit.flags, "asked_again")
        wanted = [key for key in wanted if key not in settled]

    for place, half in wanted:
        sentence = own_sentence(reviews[place], half) if policy.fallback == "sentence" else None
        settled[place, half] = (
            _settled(None, None, ("empty",), "left_empty")
            if sentence is None
            else _settled(sentence, 1.0, (), "own_sentence")
        )
    return [
        dict(row)
        | {f"{half}{name}": value for half in RATIONALE_TASKS for name, value in settled[place, half].items()}
        | {f"{half}_asks": asked.get((place, half), 0) for half in RATIONALE_TASKS}
        for place, row in enumerate(rows)
    ]


def _requests(
    rows: Sequence[Mapping[str, Any]], reviews: Sequence[str], wanted: Sequence[tuple[int, str]], attempt: int
) -> dict[int, AskAgain]:
    """By place among the rows, the reviews to ask again; an empty review has no better answer."""
    halves_of: dict[int, list[str]] = {}
    for place, half in wanted:
        if words_of(reviews[place]):
            halves_of.setdefault(place, []).append(half)
    return {
        place: AskAgain(rows[place]["review_row"], reviews[place], attempt, tuple(halves))
        for place, halves in halves_of.items()
    }


def _answers(ask: Ask, requests: Mapping[int, AskAgain]) -> dict[int, Answer]:
    answers = ask(list(requests.values()))
    if len(answers) != len(requests):
        raise DatasetError(f"{len(requests)} reviews asked again, {len(answers)} answers; give one to each")
    return dict(zip(requests, answers, strict=True))


def _judged(
    judge: Judge | None,
    policy: Policy,
    reviews: Sequence[str],
    halves: Sequence[str | None],
    audits: Sequence[HalfAudit],
) -> Sequence[HalfAudit]:
    """The audits with the judge's flag on what the score would keep and the judge would not."""
    if judge is None:
        return audits
    kept = [place for place, audit in enumerate(audits) if policy.keeps(audit)]
    verdicts = judge([reviews[place] for place in kept], [halves[place] or "" for place in kept])
    refused = {place for place, verdict in zip(kept, verdicts, strict=True) if not verdict}
    return [
        audit._replace(flags=(*audit.flags, "judged_unsupported")) if place in refused else audit
        for place, audit in enumerate(audits)
    ]


def _settled(text: str | None, score: float | None, flags: Sequence[str], choice: str) -> dict[str, Any]:
    return {"": text, "_grounding": score, "_flags": list(flags), "_choice": choice}


_WANTS = re.compile(
    r"\b(?:i|my|we)\b.*\b(?:love|loved|like|liked|need|needed|want|wanted|prefer|preferred|enjoy|looking for|favorite|"
    r"happy|recommend)\b",
    re.IGNORECASE,
)


def own_sentence(review: str, half: str) -> str | None:
    """The review's own sentence that can stand for a half; None where it has none.

    For `user_preference` one in which the writer says what they like or need; for `item_attributes` one that names an
    opinion and is no such sentence. Of 4 to 20 words; the one with the most opinions and features, then the earliest.
    """
    best: tuple[int, str] | None = None
    for sentence in sentences(clean_text(review)):
        words = words_of(sentence)
        opinions = sum(word in OPINIONS for word in words)
        says_something = any(informs(word) for word in words)
        fits = bool(_WANTS.search(sentence)) if half == "user_preference" else opinions and not _WANTS.search(sentence)
        if fits and says_something and MIN_WORDS <= len(words) <= MAX_WORDS and (best is None or opinions > best[0]):
            best = opinions, sentence
    return None if best is None else best[1]
