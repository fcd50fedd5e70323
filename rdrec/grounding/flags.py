"""Flags of distilled rationales: what is wrong with a half, whatever its grounding score.

    audit_halves(reviews, halves, names)      # score, flags and unsupported words of each half
    flags_of("Holds well.", "The item is a sturdy", "item_attributes")      # ["cut_off", ...]

Three flags speak of a teacher's whole answer, too, as `rdrec.distillation.parse` reads it. An answer is flagged by its
form, before there are halves; a half by its words, whoever wrote it. So one flag has one meaning but two rules:

| flag | an answer (parser) ... | a half (audit) ... |
| --- | --- | --- |
| empty | holds no letter or digit besides thoughts, or the form with nothing in it | has no word |
| off_format | is in no form that can be read | is a refusal, markup, foreign, repetitive, or far too long |
| cut_off | ends early: token limit, thoughts or JSON not closed, a half with no sentence end | ends in mid-sentence |

The others are of halves alone:

| flag | the half ... |
| --- | --- |
| copied_whole | is the review, or eight words or more of it, word for word |
| generic | says nothing that would not fit any product |
| contradicts | says of the item what the review denies or the opposite of what it says, or denies what it does not |
| misattributed | says what the user *is*, of which the writer says nothing: "The user is a lifesaver" |
| short_review | says more than so short a review could support |
| unsupported_words | has a word that nothing in the review comes near |
| judged_unsupported | is not supported by the review, says the judge that `policy.apply_policy` was given |

A score says how likely the half is grounded; a flag says what to look at.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dataset_builder.explanations import GENERIC, MIN_WORDS, OPINIONS, clean_text
from dataset_builder.rationales import RATIONALE_TASKS
from rdrec.errors import DatasetError

from .score import Evidence, evidence, is_content, longest_run, scores_of, stem, without_frame, words_of


# Of answers and of halves: see the table above.
EMPTY, OFF_FORMAT, CUT_OFF = "empty", "off_format", "cut_off"
FLAGS = (
    EMPTY,
    OFF_FORMAT,
    CUT_OFF,
    "copied_whole",
    "generic",
    "contradicts",
    "misattributed",
    "short_review",
    "unsupported_words",
    "judged_unsupported",
)

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
        Which half each is: one of `RATIONALE_TASKS`.
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
    """`audit_halves` of both halves of each row: [2 * n], each row's in the order of `RATIONALE_TASKS`."""
    return audit_halves(
        [review for review in reviews for _ in RATIONALE_TASKS],
        [row.get(half) for row in rows for half in RATIONALE_TASKS],
        [half for _ in rows for half in RATIONALE_TASKS],
        progress=progress,
    )


def flags_of(review: str, half: str, name: str, found: Evidence | None = None) -> list[str]:
    """Flags of one half, in the order of `FLAGS`; `unsupported_words` only where `found` has its evidence."""
    said = words_of(half)
    if not said:
        return [EMPTY]
    review = clean_text(review)
    checks = {
        OFF_FORMAT: _is_off_format(half, said),
        CUT_OFF: not _ENDED.search(half.strip()) or bool(_DANGLING.search(half)),
        "copied_whole": _is_copied(review, half),
        "generic": not any(informs(word) for word in words_of(without_frame(half))),
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


def informs(word: str) -> bool:
    """Whether a word says something of this product, rather than what would fit any."""
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
