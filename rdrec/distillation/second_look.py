"""Second look: what the policy asks again and what the judge says, through the same journal as the first answers.

    look = SecondLook(journal, policy, prompt, teacher=pool.ask, ...)
    rows = look.apply(rows, reviews)          # in a thread; asks in the run's event loop

`rdrec.grounding.policy.apply_policy` decides; this file lends it the teacher and a judge. A re-ask and a verdict
are journaled under keys of their own, so a killed run goes on here as it does with first answers.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dataset_builder.rationales import RATIONALE_TASKS
from rdrec.grounding.policy import AskAgain, Policy, apply_policy

from .asking import Asking, Question, Teacher, key_of
from .endpoints import ServerError
from .journal import Journal
from .parse import parse_answer
from .prompts import Prompt, prepare


JUDGE_FILE = Path(__file__).with_name("judge.yaml")


def halves_of(entry: dict[str, Any]) -> tuple[tuple[str | None, str | None], set[str]]:
    """Both halves of a journaled answer, and its flags."""
    flags = set(entry.get("flags", ()))
    if flags & {"rejected", "failed"}:
        return (None, None), flags
    halves, found = parse_answer(entry["text"], entry["finish"])
    return halves, flags | set(found)


def is_supported(entry: dict[str, Any]) -> bool:
    """A judge's verdict: no, unless the answer plainly says yes."""
    words = re.findall("[a-z]+", entry["text"].lower())
    return "yes" in words and "no" not in words


class SecondLook:
    """Policy and, optionally, judge of one run.

    Parameters
    ----------
    journal : Journal
        Open; it holds the first answers, and what earlier runs asked again.
    policy : Policy
    prompt : Prompt
        The prompt of the first answers; its `temperature_again` is what re-asks are sampled at.
    teacher : coroutine function
    judge : (Prompt, coroutine function), optional
        Asks whether a half that the policy would keep is supported; "no" counts as a reason to reject it.
    asking : callable
        Makes an `Asking` for so many questions.
    away : ServerError, optional
        Why no server can be reached: raised as soon as one is needed.
    max_review_chars : int
    bar : tqdm
        Its total grows with what is asked.
    at_once : callable
        What else the bar shows.
    """

    def __init__(
        self,
        journal: Journal,
        policy: Policy,
        prompt: Prompt,
        *,
        teacher: Teacher,
        judge: tuple[Prompt, Teacher] | None,
        asking: Callable[[int], Asking],
        away: ServerError | None,
        max_review_chars: int,
        bar: tqdm,
        at_once: Callable[[], dict[str, Any]],
    ):
        self.journal, self.policy, self.prompt, self.teacher, self.judge = journal, policy, prompt, teacher, judge
        self.asking, self.away = asking, away
        self.max_review_chars = max_review_chars
        self.bar, self.at_once = bar, at_once
        self._loop = asyncio.get_running_loop()
        keys = np.frombuffer(journal.keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._offsets = np.frombuffer(journal.offsets, dtype=np.int64)[order]

    def apply(self, rows: Sequence[dict[str, Any]], reviews: Sequence[str]) -> list[dict[str, Any]]:
        """`apply_policy` of some rows; not to be called in the event loop's own thread."""
        verdicts = None if self.judge is None else self._verdicts
        return apply_policy(rows, reviews, self.policy, self._again, judge=verdicts)

    def _again(self, requests: Sequence[AskAgain]) -> list[dict[str, str | None]]:
        questions = []
        for place, request in enumerate(requests):
            text, _ = prepare(request.review, self.max_review_chars)
            key = key_of(text, f"again {request.attempt}")
            questions.append(Question(place, key, self.prompt.messages(text), self.prompt.temperature_again))
        answers = self._answers(questions, self.teacher)
        return [dict(zip(RATIONALE_TASKS, halves_of(entry)[0], strict=True)) for entry in answers]

    def _verdicts(self, reviews: Sequence[str], halves: Sequence[str]) -> list[bool]:
        prompt, judge = self.judge
        questions = []
        for place, (review, half) in enumerate(zip(reviews, halves, strict=True)):
            text, _ = prepare(review, self.max_review_chars)
            claim, _ = prepare(half, self.max_review_chars)
            key = key_of(text, f"judge {prompt.sha256} {claim}")
            questions.append(Question(place, key, prompt.messages(text, claim)))
        return [is_supported(entry) for entry in self._answers(questions, judge)]

    def _answers(self, questions: Sequence[Question], teacher: Teacher) -> list[dict[str, Any]]:
        """The journal's entry of each question; what it lacks is asked, equal questions once."""
        keys, first, place = np.unique(
            np.array([question.key for question in questions], dtype=np.uint64), return_index=True, return_inverse=True
        )
        offsets = np.full(len(keys), -1, dtype=np.int64)
        where = np.searchsorted(self._keys, keys)
        known = where < len(self._keys)
        known[known] = self._keys[where[known]] == keys[known]
        offsets[known] = self._offsets[where[known]]
        missing = np.flatnonzero(offsets < 0).tolist()
        if missing:
            if self.away is not None:
                raise self.away
            new = (questions[first[number]]._replace(number=number) for number in missing)
            self.bar.total += len(missing)
            asked = self.asking(len(missing)).all(teacher, new, offsets, self.bar, self.at_once)
            asyncio.run_coroutine_threadsafe(asked, self._loop).result()
            self._keys = np.insert(self._keys, where[missing], keys[missing])
            self._offsets = np.insert(self._offsets, where[missing], offsets[missing])
        return [self.journal.read(int(offsets[number])) for number in place]
