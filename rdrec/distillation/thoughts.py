"""Thoughts: what a reasoning model writes before it answers, in any of the styles in which servers hand it on.

    without_thoughts("<think>The lamp ...</think>1. The user ...").answer

Servers that know their model set thoughts apart (`reasoning_content`), which is never read. The others leave them in
the answer, between tags (`<think>`, `[THINK]`, `<|begin_of_thought|>`, ...), often without the opening one, which the
chat template wrote, or in channels (`<|channel|>analysis ... <|channel|>final`), whose marks some servers drop.
"""

import re
from typing import NamedTuple


_NAME = r"(?:\w{1,12}:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
_TAG = re.compile(
    rf"(?P<closing>[<\[\u25c1](?:/|\|/|\|?end_of_){_NAME}\|?[>\]\u25b7]|<channel\|>|<unused95>)"
    rf"|[<\[\u25c1]\|?(?:begin_of_)?{_NAME}\|?[>\]\u25b7]|<\|channel>[ ]?thought\b|<unused94>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s{0,9}(final)?")
# What stands between the channel's name and its text, and what ends the text.
_MESSAGE = re.compile(r"[^<]{0,40}(?:<\|constrain\|>[^<]{0,40})?<\|message\|>")
_END_OF_CHANNEL = re.compile(r"<\|(?:end|return|start|call|channel)\|>")
# The same with its marks dropped, as servers show it that leave special tokens out.
_BARE_CHANNEL = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z])")
_BARE_FINAL = re.compile(r"assistant\s?final(?![a-z])")


class Answer(NamedTuple):
    """What follows the thoughts; `is_open` where they never ended."""

    answer: str
    is_open: bool


def without_thoughts(text: str) -> Answer:
    """An answer without the thoughts in it, in time linear in its length.

    The answer is what follows the last closing tag, whether that was opened or not: all before may be thoughts.
    Thoughts that begin after it and never end are left out.
    """
    channels = list(_CHANNEL.finditer(text))
    if channels:
        return _final_channel(text, channels)
    if _BARE_CHANNEL.match(text):
        ends = [mark.end() for mark in _BARE_FINAL.finditer(text)]
        return Answer(text[ends[-1] :] if ends else "", not ends)
    start, opened = 0, None
    for tag in _TAG.finditer(text):
        if tag["closing"]:
            start, opened = tag.end(), None
        elif opened is None:
            opened = tag.start()
    return Answer(text[start:opened], opened is not None)


def _final_channel(text: str, channels: list["re.Match[str]"]) -> Answer:
    """The text of the last channel named final; there is none where the model was cut in its thoughts."""
    last = next((mark for mark in reversed(channels) if mark[1]), None)
    if last is None:
        return Answer("", True)
    message = _MESSAGE.match(text, last.end())
    start = message.end() if message else last.end()
    end = _END_OF_CHANNEL.search(text, start)
    return Answer(text[start : end.start() if end else len(text)], False)
