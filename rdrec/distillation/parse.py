"""Parser: an answer of the teacher becomes two halves and flags. It never guesses: what does not parse stays empty.

    parse_answer("1. The user prefers A.\n2. The item has B.").halves

Read are JSON objects, numbered sentences, labelled sentences, and two bare sentences of which one names the user or
the item. What is plainly repairable is repaired and flagged: text around the JSON, single quotes, a missing bracket.

What a reasoning model thinks before it answers is never read. Where an answer was cut, thoughts may stand there without
any tag that says so: then only an answer that begins with its form is read.

| flag | meaning |
| --- | --- |
| empty, off_format, cut_off | see the table in `rdrec.grounding.flags`: an audited half has them, too |
| repaired | found, but not in the form asked for |
| too_long | MAX_ANSWER_CHARS or longer; only the beginning was kept |
| refusal | the teacher declined |
| other_language | not English |
| unknown_user_preference, unknown_item_attributes | the teacher said "unknown": the half is empty |
| missing_user_preference, missing_item_attributes | the half is not in an answer that holds the other |
"""

import ast
import json
import re
from typing import Any, NamedTuple

from dataset_builder.rationales import RATIONALE_TASKS, ends_as_sentence
from rdrec.grounding.flags import CUT_OFF, EMPTY, OFF_FORMAT

from .thoughts import without_thoughts


MAX_ANSWER_CHARS = 8000  # about ten times the longest answer the prompts allow

_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am) (?:sorry|unable|not able|an ai)|sorry\b|i (?:can ?not|can['’]?t|won['’]?t|apologi[sz]e)\b"
    r"|as an ai\b|unfortunately,? i\b)",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"\W*(?:(?:the )?(?:user|item)(?:['’]s)? (?:preferences?|attributes?)? ?(?:is|are)? ?)?"
    r"(?:unknown|n/?a|none|null|not (?:stated|mentioned|specified|clear|known|given))\W*",
    re.IGNORECASE,
)
_LABEL = {
    "user_preference": r"(?:(?:the )?(?:user|customer|buyer|reviewer)(?:['’]s|s['’])?[ _]preferences?)",
    "item_attributes": r"(?:(?:the )?(?:item|product)(?:['’]s|s['’])?[ _]attributes?)",
}
_MARKED_LABEL = re.compile(
    # At most so many marks: without a bound, a page of them is looked through from each of its places.
    r"(?:^|(?<=\s))[*_#>\"'\-\d.)( \t]{0,40}"
    + "(?:{})".format("|".join(f"(?P<{half}>{label})" for half, label in _LABEL.items()))
    + r"[*_\"' \t]*[:\-–—][*_ \t]*",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = r"[*_(\[]{{0,3}}(?:sentence )?{}[*_]{{0,2}}[.):\]][*_]{{0,2}}\s+"
_FIRST = re.compile(r"^[ \t\-]*" + _NUMBER.format(1), re.MULTILINE | re.IGNORECASE)
_SECOND_OF_LINE = re.compile(r"^[ \t\-]*" + _NUMBER.format(2), re.MULTILINE | re.IGNORECASE)
_SECOND_INLINE = re.compile(r"(?<=\s)" + _NUMBER.format(2), re.IGNORECASE)
_THIRD = re.compile(r"^[ \t\-]*" + _NUMBER.format(3), re.MULTILINE | re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•–]|\d[.)])\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(A-Z])")
_OF_USER = re.compile(r"\b(?:user|users|customer|buyer|reviewer|purchaser|they|he|she)\b", re.IGNORECASE)
_OF_ITEM = re.compile(r"\b(?:item|product|it|its|this)\b", re.IGNORECASE)
_FENCE = re.compile(r"\A\s*```(?:json)?\s*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")
# Any English sentence of five words or more holds one of these.
_ENGLISH = frozenset(
    "the a an and or of to in is are was were it its that this with for on as at by from has have had be been not but "
    "their his her they he she who which what prefers prefer wants likes user item".split()
)


class Parsed(NamedTuple):
    """`halves` are (user_preference, item_attributes), each None when there is none; `flags` are sorted."""

    halves: tuple[str | None, str | None]
    flags: tuple[str, ...]


def parse_answer(text: str, finish: str = "stop") -> Parsed:
    """Read an answer.

    Parameters
    ----------
    text : str
        Any text at all, of any length.
    finish : str
        The server's reason to end; "length" means that the answer was cut.
    """
    flags = {CUT_OFF} if finish == "length" else set()
    if len(text) >= MAX_ANSWER_CHARS:  # the client keeps so many of a longer one
        flags.add("too_long")
        text = text[:MAX_ANSWER_CHARS]
    text, is_open = without_thoughts(text)
    if is_open:
        flags.add(CUT_OFF)
    if not has_content(text):
        return Parsed((None, None), tuple(sorted(flags | {EMPTY})))
    found = _found(text, flags)
    if found is None:
        flags.add("refusal" if _REFUSAL.match(text) else OFF_FORMAT)
        if _is_foreign(text):
            flags.add("other_language")
        return Parsed((None, None), tuple(sorted(flags)))
    halves = (_half(found, RATIONALE_TASKS[0], flags), _half(found, RATIONALE_TASKS[1], flags))
    if {f"missing_{half}" for half in RATIONALE_TASKS} <= flags:  # the form without the content
        flags -= {f"missing_{half}" for half in RATIONALE_TASKS}
        flags.add(EMPTY)
    if "too_long" not in flags and not all(ends_as_sentence(half) for half in halves if half):
        flags.add(CUT_OFF)
    return Parsed(halves, tuple(sorted(flags)))


def _found(text: str, flags: set[str]) -> dict[str, Any] | None:
    """The halves in whichever form they stand there, or None."""
    if flags & {CUT_OFF, "too_long"} and not _begins_with_its_form(text):
        return None
    return _from_json(text, flags) or _from_labels(text, flags) or _from_numbers(text, flags) or _bare(text, flags)


def _begins_with_its_form(text: str) -> bool:
    text = _FENCE.sub("", text).strip()
    begins = text.startswith("{") or _MARKED_LABEL.match(text) or _FIRST.match(text)
    return bool(begins) and not _THIRD.search(text)


def _half(found: dict[str, Any], half: str, flags: set[str]) -> str | None:
    """One half as a sentence; None, and a flag, where there is none."""
    sentence = _clean(found.get(half), half)
    if sentence is None:
        flags.add(f"missing_{half}")
    elif _UNKNOWN.fullmatch(sentence):
        flags.add(f"unknown_{half}")
        sentence = None
    elif _REFUSAL.match(sentence):
        flags.add("refusal")
        sentence = None
    elif _is_foreign(sentence):
        flags.add("other_language")
    return sentence


def has_content(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _from_json(text: str, flags: set[str]) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    return _from_whole_json(text, start, flags) or _from_python(text, start, flags) or _from_fields(text, start, flags)


def _from_whole_json(text: str, start: int, flags: set[str]) -> dict[str, Any] | None:
    """The first object, where the answer begins with it; behind other text, which may be thoughts, the last one."""
    is_first = not has_content(_FENCE.sub("", text[:start]))
    halves: dict[str, Any] = {}
    is_last = False
    while start >= 0 and not (halves and is_first):
        try:
            made, end = json.JSONDecoder(strict=False).raw_decode(text, start)
        except (ValueError, RecursionError):
            made, end = {}, start + 1
        if found := _halves_of(made):
            halves, is_last = found, not has_content(text[end:])
        start = text.find("{", end)
    if halves and not (is_first and is_last):
        flags.add("repaired")
    return halves


def _from_python(text: str, start: int, flags: set[str]) -> dict[str, Any] | None:
    """Single quotes and trailing commas are no JSON, but Python."""
    end = text.rfind("}")
    if end < start:
        return None
    try:
        made = ast.literal_eval(text[start : end + 1])
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    halves = _halves_of(made) if isinstance(made, dict) else {}
    if halves:
        flags.add("repaired")
    return halves


def _from_fields(text: str, start: int, flags: set[str]) -> dict[str, str]:
    """Broken JSON: each half's string by itself, the last one perhaps not closed."""
    halves = {}
    for half in RATIONALE_TASKS:
        field = re.search(rf'["\']{half}["\']\s*:\s*"((?:[^"\\]|\\.)*)("?)', text, re.DOTALL)
        if field:
            halves[half] = _unescaped(field[1])
            if not field[2]:
                flags.add(CUT_OFF)
    if halves:
        flags.add("repaired")
        if text.rfind("}") < start:
            flags.add(CUT_OFF)
    return halves


def _halves_of(made: dict[Any, Any]) -> dict[str, Any]:
    """What stands under names that mean the halves."""
    halves: dict[str, Any] = {}
    for key, value in made.items():
        name = str(key).lower()
        if "evidence" in name:
            continue
        if "user" in name or "prefer" in name:
            half = RATIONALE_TASKS[0]
        elif "item" in name or "attribute" in name or "product" in name:
            half = RATIONALE_TASKS[1]
        else:
            continue
        if half not in halves:
            if isinstance(value, list):
                value = ", ".join(part for part in value if isinstance(part, str))
            halves[half] = value if isinstance(value, str) else ""
    return halves


def _unescaped(string: str) -> str:
    try:
        return json.loads(f'"{string}"', strict=False)
    except ValueError:
        return string.replace('\\"', '"').replace("\\", "")


def _from_labels(text: str, flags: set[str]) -> dict[str, str] | None:
    marks = [(mark.start(), mark.end(), mark.lastgroup) for mark in _MARKED_LABEL.finditer(text)]
    if not marks:
        return None
    flags.add("repaired")
    ends = [start for start, _, _ in marks[1:]] + [len(text)]
    halves: dict[str, str] = {}
    for (_, start, half), end in zip(marks, ends, strict=True):
        halves.setdefault(half or "", _paragraph(text[start:end]))
    return halves


def _from_numbers(text: str, flags: set[str]) -> dict[str, str] | None:
    firsts = list(_FIRST.finditer(text))
    if not firsts:
        return None
    if has_content(text[: firsts[0].start()]):
        firsts.reverse()  # the text before may be thoughts with numbers of their own; the last pair is the answer
    pairs = ((first, _second_after(text, first.end())) for first in firsts[:20])
    first, second = next((pair for pair in pairs if pair[1]), (firsts[0], None))
    if second is None:
        return {RATIONALE_TASKS[0]: _paragraph(text[first.end() :])}
    third = _THIRD.search(text, second.end())
    if third or has_content(text[: first.start()]):
        flags.add("repaired")
    rest = text[second.end() : third.start() if third else len(text)]
    return {RATIONALE_TASKS[0]: _paragraph(text[first.end() : second.start()]), RATIONALE_TASKS[1]: _paragraph(rest)}


def _second_after(text: str, place: int) -> "re.Match[str] | None":
    return _SECOND_OF_LINE.search(text, place) or _SECOND_INLINE.search(text, place)


def _bare(text: str, flags: set[str]) -> dict[str, str] | None:
    """Two sentences without any mark, when what they speak of tells which is which."""
    if _REFUSAL.match(text):
        return None
    parts = [_BULLET.sub("", line) for line in text.strip().splitlines() if has_content(line)]
    if len(parts) == 1:
        parts = _SENTENCE_END.split(parts[0])
    if len(parts) != 2:
        return None
    of_user, of_item = _OF_USER.search(parts[0][:40]), _OF_ITEM.search(parts[1][:40])
    if not of_user or not of_item:
        return None
    flags.add("repaired")
    return dict(zip(RATIONALE_TASKS, parts, strict=True))


def _paragraph(text: str) -> str:
    """The first paragraph that has content: what follows is the teacher's small talk."""
    return next((part for part in re.split(r"\n\s*\n", text) if has_content(part)), "")


def _clean(sentence: Any, half: str) -> str | None:
    if not isinstance(sentence, str):
        return None
    # A lone surrogate, "\ud83d" in the answer's JSON, is no character and cannot be written.
    sentence = sentence.replace("\ufffd", "").encode("utf-8", "ignore").decode()
    sentence = " ".join(sentence.split()).strip('*_`"“”{} ')
    sentence = re.sub(rf"^{_LABEL[half]}\s*[:–—]\s*", "", sentence, flags=re.IGNORECASE).strip('*_"“” ')
    return sentence if has_content(sentence) else None


def _is_foreign(text: str) -> bool:
    letters = [character for character in text if character.isalpha()]
    if sum(character > "\u024f" for character in letters) > 0.3 * len(letters):
        return True
    words = [word.lower() for word in _WORD.findall(text)]
    return len(words) >= 5 and _ENGLISH.isdisjoint(words)
