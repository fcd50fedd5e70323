"""Audit of distilled rationales: a grounding score and flags for each half, and a policy that acts on them.

    python -m dataset_builder audit RATIONALES_DIR --reviews reviews.csv.zip [--apply sentence]

    from .audit import apply_policy, audit_halves, grounding_scores

| flag | the half ... |
| --- | --- |
| empty | has no word |
| off_format | is a refusal, markup, another language, a repetition, or far longer than a sentence |
| cut_off | ends in the middle of a sentence |
| copied_whole | is the review, or eight words or more of it, word for word |
| generic | says nothing that would not fit any product |
| contradicts | says of the item what the review denies or the opposite of what it says, or denies what it does not |
| misattributed | says what the user *is*, of which the writer says nothing: "The user is a lifesaver" |
| short_review | says more than so short a review could support |
| unsupported_words | has a word that nothing in the review comes near |
| judged_unsupported | is not supported by the review, says the judge that `apply_policy` was given |

A score says how likely the half is grounded; a flag says what to look at. The policy rejects a half on a score below
its threshold or on one of the flags in `REJECTING`. This file asks no server: who re-asks hands `apply_policy` a
function (`Ask`).
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dataset_builder.explanations import GENERIC, MAX_WORDS, MIN_WORDS, OPINIONS, clean_text, sentences
from rdrec.errors import DatasetError

from .score import (
    Evidence,
    evidence,
    grounding_scores,
    is_content,
    longest_run,
    scores_of,
    stem,
    without_frame,
    words_of,
)


__all__ = [
    "Answer",
    "Ask",
    "AskAgain",
    "HalfAudit",
    "Judge",
    "Policy",
    "apply_policy",
    "audit_halves",
    "audit_rows",
    "flags_of",
    "grounding_scores",
    "own_sentence",
]

HALVES = ("user_preference", "item_attributes")
FLAGS = (
    "empty",
    "off_format",
    "cut_off",
    "copied_whole",
    "generic",
    "contradicts",
    "misattributed",
    "short_review",
    "unsupported_words",
    "judged_unsupported",
)
REJECTING = frozenset(
    {"empty", "off_format", "cut_off", "copied_whole", "contradicts", "misattributed", "judged_unsupported"}
)
CHOICES = ("kept", "asked_again", "own_sentence", "left_empty")
FALLBACKS = ("sentence", "empty")

KEEP = 0.75  # score from which the policy keeps a half
LONGEST_HALF = 60  # words; the teacher is asked for one short sentence
SHORT_REVIEW = 6  # content words; what has fewer is held against what the half claims
COPIED_RUN, COPIED_SHARE = 8, 0.8  # words in a row, and the share of the half that they make up
SAME_RUN = 3  # a run of words that stands this often in one half is a repetition

_REFUSAL = re.compile(
    r"\b(?:as an? (?:ai|language model)|i(?:'m| am) (?:sorry|unable|not able)|i (?:can(?:'|no)t|cannot|do not have) "
    r"(?:help|assist|provide|answer|determine|access)|no review (?:was )?(?:provided|given))\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"[{}]|</?\w+>|<\||\[/?INST\]|```|^\s*(?:assistant|system|user)\s*:", re.IGNORECASE)
_DANGLING = re.compile(
    r"(?:,|\b(?:and|or|but|an?|the|to|of|with|for|is|are|that|which|can|not|in|on|as))\W*$", re.IGNORECASE
)
_ENDED = re.compile(r"[.!?\u2026][\"')\]\u2019\u201d]*$")
# Words of which an English sentence of some length has at least one.
_ENGLISH = frozenset("the a an is are was be to of and or in that for with it has have this on not as you i".split())

_USER_IS = re.compile(r"\W*the user (?:is|are|was) (\w+)", re.IGNORECASE)
_OF_ONESELF = re.compile(
    r"\b(?:i am|i['\u2019]?m|i was|i['\u2019]ve been|as an?|we are|we['\u2019]re)\b", re.IGNORECASE
)

_NEGATIONS = frozenset(
    """
    not no never none without hardly barely cannot can't don't doesn't didn't isn't aren't wasn't weren't won't wouldn't
    couldn't shouldn't hasn't haven't hadn't lacks lacking lacked dont doesnt didnt isnt wasnt wont cant
    """.split()
)
_CLAUSE = re.compile(r"[.,;:!?()]+|\bbut\b|\balthough\b|\bthough\b", re.IGNORECASE)  # a negation reaches to its end

# What is said on one side is contradicted by the other, where that stands in the review and the first does not.
_OPPOSITES = (
    ("cheap inexpensive affordable budget", "expensive overpriced pricey"),
    ("sturdy durable solid robust tough strong", "flimsy fragile broke broken breaks"),
    ("reliable dependable lasting", "unreliable fails failed broke broken defective dead"),
    ("lightweight light portable", "heavy bulky"),
    ("quiet noiseless silent", "noisy loud hiss hisses"),
    ("easy simple effortless", "difficult hard complicated"),
    ("comfortable comfy", "uncomfortable"),
    ("accurate precise", "inaccurate"),
    ("flexible soft", "stiff rigid"),
    ("small compact tiny", "large huge bulky"),
    (
        "excellent great perfect premium superior",
        "terrible horrible awful worst junk garbage useless worthless",
    ),
)
_REFUTED = [
    ({stem(word) for word in claims.split()}, {stem(word) for word in refutes.split()})
    for pair in _OPPOSITES
    for claims, refutes in (pair, pair[::-1])
]


class HalfAudit(NamedTuple):
    """Verdict on one half: its score (0 to 1), its flags in the order of `FLAGS`, and its unsupported words."""

    score: float
    flags: tuple[str, ...]
    unsupported: tuple[str, ...]


def audit_halves(
    reviews: Sequence[str], halves: Sequence[str | None], names: Sequence[str], *, progress: bool = False
) -> list[HalfAudit]:
    """Score and flag halves against their reviews.

    Parameters
    ----------
    reviews, halves : sequence of str
        Whole review texts, and one half each (None: no half).
    names : sequence of str
        Which half each is: one of `HALVES`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of HalfAudit

    Raises
    ------
    DatasetError
        Sequences of different lengths, or the package with MiniLM is not installed.
    """
    if not len(reviews) == len(halves) == len(names):
        raise DatasetError(f"{len(reviews)} reviews, {len(halves)} halves, {len(names)} names; give as many of each")
    texts = [half or "" for half in halves]
    found = evidence(reviews, texts, progress=progress)
    audits = []
    for review, half, name, one, score in zip(reviews, texts, names, found, scores_of(found), strict=True):
        unsupported = () if one is None else tuple(one.unsupported)
        audits.append(HalfAudit(score, tuple(flags_of(review, half, name, one)), unsupported))
    return audits


def audit_rows(rows: Sequence[Mapping[str, Any]], reviews: Sequence[str], *, progress: bool = False) -> list[HalfAudit]:
    """`audit_halves` of both halves of each row: [2 * n], each row's in the order of `HALVES`."""
    return audit_halves(
        [review for review in reviews for _ in HALVES],
        [row.get(half) for row in rows for half in HALVES],
        [half for _ in rows for half in HALVES],
        progress=progress,
    )


def flags_of(review: str, half: str, name: str, found: Evidence | None = None) -> list[str]:
    """Flags of one half, in the order of `FLAGS`; `unsupported_words` only where `found` has its evidence."""
    said = words_of(half)
    if not said:
        return ["empty"]
    review = clean_text(review)
    checks = {
        "off_format": _is_off_format(half, said),
        "cut_off": not _ENDED.search(half.strip()) or bool(_DANGLING.search(half)),
        "copied_whole": _is_copied(review, half),
        "generic": not any(_informs(word) for word in words_of(without_frame(half))),
        "contradicts": (name == "item_attributes" and _contradicts(review, half)) or _denies(review, half),
        "misattributed": name == "user_preference" and _is_misattributed(review, half),
        "short_review": _is_too_short(review, half),
        "unsupported_words": found is not None and bool(found.unsupported),
    }
    return [flag for flag in FLAGS if checks.get(flag)]


def _is_off_format(half: str, said: Sequence[str]) -> bool:
    letters = [letter for letter in half if letter.isalpha()]
    foreign = sum(not letter.isascii() for letter in letters) > 0.2 * len(letters)
    no_english = len(said) >= 6 and not _ENGLISH.intersection(said)
    runs = [tuple(said[i : i + SAME_RUN]) for i in range(len(said) - SAME_RUN + 1)]
    if len(said) > LONGEST_HALF or foreign or no_english or _REFUSAL.search(half) or _MARKUP.search(half):
        return True
    return max(Counter(runs).values(), default=0) >= SAME_RUN


def _is_copied(review: str, half: str) -> bool:
    said, read = words_of(without_frame(half)), words_of(review)
    run = longest_run(said, read)
    return run >= COPIED_SHARE * len(said) and (run >= COPIED_RUN or (run == len(read) and run >= MIN_WORDS))


def _informs(word: str) -> bool:
    return is_content(word) and word not in OPINIONS and word not in GENERIC


def _is_too_short(review: str, half: str) -> bool:
    can = {stem(word) for word in words_of(review) if is_content(word)}
    says = {stem(word) for word in words_of(without_frame(half)) if is_content(word)}
    return len(can) < SHORT_REVIEW and len(says - can) > len(says & can)


def _polarity(text: str) -> tuple[set[str], set[str]]:
    """Stems of content words that stand plainly, and of those behind a negation in their clause."""
    plain: set[str] = set()
    negated: set[str] = set()
    for clause in _CLAUSE.split(text):
        words = words_of(clause)
        turned = False
        for place, word in enumerate(words):
            if word in _NEGATIONS:
                turned = words[place + 1 : place + 2] != ["only"]  # "not only sturdy" denies nothing
            elif is_content(word) or word in OPINIONS:
                (negated if turned else plain).add(stem(word))
    return plain, negated


def _contradicts(review: str, half: str) -> bool:
    said, denied = _polarity(without_frame(half))
    plain, negated = _polarity(review)
    if said & (negated - plain - denied) or denied & (plain - negated - said):
        return True
    return any(said & claims and plain & refutes and not plain & claims for claims, refutes in _REFUTED)


def _denies(review: str, half: str) -> bool:
    """Whether the half denies something, and the review nothing of it."""
    _, denied = _polarity(without_frame(half))
    _, negated = _polarity(review)
    return bool(denied) and not denied & negated


def _is_misattributed(review: str, half: str) -> bool:
    what = _USER_IS.match(half)
    if what is None or _OF_ONESELF.search(review):
        return False
    word = what[1].lower()
    return word in ("a", "an", "the", "well", "also") or word in OPINIONS


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


Answer = Mapping[str, str | None]  # by the names in HALVES; one that is missing or None was not answered
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
    places = [(place, half) for place in range(len(rows)) for half in HALVES]
    audits = _judged(judge, policy, [reviews[p] for p, _ in places], [rows[p][half] for p, half in places], audits)
    for key, audit in zip(places, audits, strict=True):
        if policy.keeps(audit):
            settled[key] = _settled(rows[key[0]][key[1]], audit.score, audit.flags, "kept")
        else:
            wanted.append(key)

    for attempt in range(1, policy.asks + 1 if ask is not None else 1):
        halves_of: dict[int, list[str]] = {}
        for place, half in wanted:
            if words_of(reviews[place]):  # an empty review has no better answer
                halves_of.setdefault(place, []).append(half)
                asked[place, half] = attempt
        if not halves_of:
            break
        requests = [
            AskAgain(rows[place]["review_row"], reviews[place], attempt, tuple(halves))
            for place, halves in halves_of.items()
        ]
        answers = ask(requests)
        if len(answers) != len(requests):
            raise DatasetError(f"{len(requests)} reviews asked again, {len(answers)} answers; give one to each")
        answer_of = dict(zip(halves_of, answers, strict=True))
        tried = [(place, half) for place, halves in halves_of.items() for half in halves]
        texts = [reviews[place] for place, _ in tried]
        halves = [answer_of[place].get(half) for place, half in tried]
        audits = audit_halves(texts, halves, [half for _, half in tried], progress=progress)
        audits = _judged(judge, policy, texts, halves, audits)
        for (place, half), audit in zip(tried, audits, strict=True):
            if policy.keeps(audit):
                settled[place, half] = _settled(answer_of[place][half], audit.score, audit.flags, "asked_again")
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
        | {f"{half}{name}": value for half in HALVES for name, value in settled[place, half].items()}
        | {f"{half}_asks": asked.get((place, half), 0) for half in HALVES}
        for place, row in enumerate(rows)
    ]


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
        informs = any(_informs(word) for word in words)
        fits = bool(_WANTS.search(sentence)) if half == "user_preference" else opinions and not _WANTS.search(sentence)
        if fits and informs and MIN_WORDS <= len(words) <= MAX_WORDS and (best is None or opinions > best[0]):
            best = opinions, sentence
    return None if best is None else best[1]
