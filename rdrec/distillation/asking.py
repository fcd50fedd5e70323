"""Asking: questions go out side by side, and every answer is in the journal before it counts.

    asking = Asking(journal, concurrency=64, allow_failures=False, count=lambda: "12 of 40 texts are done")
    await asking.all(pool.ask, questions, offsets, bar, at_once=lambda: {"at once": 8})

`offsets[question.number]` becomes the place of the answer in the journal.
"""

import asyncio
import hashlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rdrec.errors import DatasetError

from .client import Answer, GaveUp, ServerLost
from .journal import Journal


WAITING = 1024  # answers that may wait for the disk
PROVEN_BROKEN = 16  # so many refusals before any answer: the request is wrong, not the reviews

# (messages, seed, temperature or None for that of the settings) -> answer
Ask = Callable[[list[dict[str, str]], int, float | None], Awaitable[Answer]]


class Stopped(DatasetError):
    """The run ended before all was done; what was answered is in the journal, and the same command goes on."""


def key_of(text: str, purpose: str = "") -> int:
    """The journal's key of a prepared text: 64 bits, from 1; `purpose` tells a re-ask or a verdict from the first ask.

    Among a million texts two would share a key once in 37 million such files.
    """
    said = f"{purpose}\x00{text}" if purpose else text  # a prepared text holds no \x00
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big") or 1


class Question(NamedTuple):
    """One question; `number` is its place in `offsets`, `key` names its answer and seeds its sampling."""

    number: int
    key: int
    messages: list[dict[str, str]]
    temperature: float | None = None


class Asking:
    """Asks, journals, and stops in order.

    Parameters
    ----------
    journal : Journal
        Open.
    concurrency : int
        Questions that are out at the same time at most.
    seed : int
        Each question's sampling seed is made from it and the question's key.
    allow_failures : bool
        Journal an empty answer where a question fails again and again.
    count : callable
        Says in a phrase how much is done, for the message of a run that stops.
    """

    def __init__(
        self, journal: Journal, *, concurrency: int, seed: int, allow_failures: bool, count: Callable[[], str]
    ):
        self.journal = journal
        self.concurrency = concurrency
        self.seed = seed
        self.allow_failures = allow_failures
        self.count = count
        self.tokens = 0
        self.failed = 0
        self._last_failure = ""
        self._kept = len(journal.keys)
        self._proven = len(journal.keys) > 0
        self._held: list[tuple[Question, Answer]] = []  # refusals before the first answer

    async def all(
        self,
        ask: Ask,
        questions: Iterator[Question],
        offsets: np.ndarray,
        bar: tqdm,
        at_once: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Ask all questions.

        Parameters
        ----------
        ask : coroutine function
        questions : iterator of Question
        offsets : np.ndarray
            [n] int64, filled in.
        bar : tqdm
            Moved by one an answer.
        at_once : callable
            What else the bar shows.

        Raises
        ------
        Stopped
            Servers lost, or questions without an answer that are not allowed to fail.
        DatasetError
            The server refuses everything, or the disk failed.
        """
        waiting: asyncio.Queue[tuple[Question, Answer]] = asyncio.Queue(WAITING)
        workers = [asyncio.create_task(self._work(ask, questions, waiting)) for _ in range(self.concurrency)]
        keeper = asyncio.create_task(self._keep(waiting, offsets, bar, at_once))
        try:
            try:
                pending: set[asyncio.Task[None]] = set(workers)
                while pending:
                    done, pending = await asyncio.wait([*pending, keeper], return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # raises what stopped it
                    pending.discard(keeper)
                await _drained(waiting, keeper)
                if keeper.done():
                    keeper.result()
            finally:
                # However it ends: no new questions, and what was answered goes to disk.
                await _cancel(workers)
                await _drained(waiting, keeper)
                await _cancel([keeper])
        except DatasetError as error:
            if self._kept or isinstance(error, ServerLost):
                raise Stopped(f"{error}; {self.count()}") from error
            raise
        except asyncio.CancelledError:  # ctrl-C
            tqdm.write(f"note: {self.count()}", file=sys.stderr)
            raise
        if self._held:
            raise DatasetError(f"the server refuses every request ({self._held[0][1].text}); see its log")
        if self.failed:
            raise Stopped(
                f"{self.failed} texts got no answer ({self._last_failure}); {self.count()}; "
                "--allow_failures leaves them empty"
            )

    async def _work(
        self, ask: Ask, questions: Iterator[Question], waiting: "asyncio.Queue[tuple[Question, Answer]]"
    ) -> None:
        for question in questions:
            seed = (self.seed * 1_000_003 + question.key) % 2**31
            try:
                answer = await ask(question.messages, seed, question.temperature)
            except GaveUp as error:
                self._last_failure = str(error)
                self.failed += not self.allow_failures
                if not self.allow_failures:
                    continue
                answer = Answer(str(error), "error", 0, ("failed",))
            if not self._proven:
                if "rejected" in answer.flags:
                    # Kept back until an answer shows that the request as such is right.
                    self._held.append((question, answer))
                    if len(self._held) >= PROVEN_BROKEN:
                        raise DatasetError(f"the server refuses every request ({answer.text}); see its log")
                    continue
                self._proven = True
                for one in self._held:
                    await waiting.put(one)
                self._held = []
            await waiting.put((question, answer))

    async def _keep(
        self,
        waiting: "asyncio.Queue[tuple[Question, Answer]]",
        offsets: np.ndarray,
        bar: tqdm,
        at_once: Callable[[], dict[str, Any]],
    ) -> None:
        """Write answers as they come, as many as wait in one flush of the disk."""
        while True:
            batch = [await waiting.get()]
            while not waiting.empty():
                batch.append(waiting.get_nowait())
            # Shielded: cancelled in the middle of a write, the next write would begin inside it.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._keep_batch, batch, offsets))
            for _, answer in batch:
                self.tokens += answer.tokens
                self._kept += 1
                waiting.task_done()
            bar.set_postfix({"tokens": f"{self.tokens:,}", "failed": self.failed, **at_once()}, refresh=False)
            bar.update(len(batch))

    def _keep_batch(self, batch: list[tuple[Question, Answer]], offsets: np.ndarray) -> None:
        entries = []
        for question, answer in batch:
            entry: dict[str, Any] = {"key": f"{question.key:016x}", "text": answer.text}
            entry |= {"finish": answer.finish, "tokens": answer.tokens}
            if answer.flags:
                entry["flags"] = list(answer.flags)
            entries.append(entry)
        places = self.journal.append(entries)
        offsets[[question.number for question, _ in batch]] = places


async def _drained(waiting: "asyncio.Queue[tuple[Question, Answer]]", keeper: "asyncio.Task[None]") -> None:
    """Until every answer is on disk, or the disk failed."""
    joined = asyncio.create_task(waiting.join())
    await asyncio.wait([joined, keeper], return_when=asyncio.FIRST_COMPLETED)
    joined.cancel()


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
