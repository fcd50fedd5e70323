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

from rdrec.errors import UserError

from .client import GaveUp, ServerLost
from .endpoints import ServerError
from .journal import Journal
from .responses import Completion


WAITING = 1024  # answers that may wait for the disk
PROVEN_BROKEN = 16  # so many questions without an answer before any has one: the request is wrong, not the reviews
NO_ANSWER = frozenset({"rejected", "failed", "only_thoughts"})  # flags of a completion that answers nothing

# (messages, seed, temperature or None for that of the settings) -> what the teacher wrote
Teacher = Callable[[list[dict[str, str]], int, float | None], Awaitable[Completion]]
Pending = tuple["Question", Completion]  # a completion on its way to the journal


class Stopped(UserError):
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
        self._proven = len(journal.keys) > 0  # a question had an answer, so the request as such is right
        self._held: list[Pending] = []  # completions without an answer from before that

    async def all(
        self,
        teacher: Teacher,
        questions: Iterator[Question],
        offsets: np.ndarray,
        bar: tqdm,
        at_once: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """Ask all questions.

        Parameters
        ----------
        teacher : coroutine function
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
        ServerError
            The server answers nothing of what it is asked.
        UserError
            The disk failed.
        """
        waiting: asyncio.Queue[Pending] = asyncio.Queue(WAITING)
        workers = [asyncio.create_task(self._work(teacher, questions, waiting)) for _ in range(self.concurrency)]
        keeper = asyncio.create_task(self._keep(waiting, offsets, bar, at_once))
        try:
            await _until_kept(workers, keeper, waiting)
        except UserError as error:
            if self._kept or isinstance(error, ServerLost):
                raise Stopped(f"{error}; {self.count()}") from error
            raise
        except asyncio.CancelledError:  # ctrl-C
            tqdm.write(f"note: {self.count()}", file=sys.stderr)
            raise
        if self._held:
            raise _broken(self._held[0][1])
        if self.failed:
            raise Stopped(
                f"{self.failed} texts got no answer ({self._last_failure}); {self.count()}; "
                "--allow_failures leaves them empty"
            )

    async def _work(self, teacher: Teacher, questions: Iterator[Question], waiting: "asyncio.Queue[Pending]") -> None:
        for question in questions:
            seed = (self.seed * 1_000_003 + question.key) % 2**31
            try:
                completion = await teacher(question.messages, seed, question.temperature)
            except GaveUp as error:
                self._last_failure = str(error)
                completion = Completion(str(error), "error", 0, ("failed",))
                if not self.allow_failures:
                    self.failed += 1
                    if not self._proven and self.failed >= PROVEN_BROKEN:
                        raise _broken(completion) from None
                    continue
            for one in self._released(question, completion):
                await waiting.put(one)

    def _released(self, question: Question, completion: Completion) -> list[Pending]:
        """What may go to the journal now: nothing is kept before an answer shows that the request as such is right."""
        if self._proven:
            return [(question, completion)]
        self._held.append((question, completion))
        if NO_ANSWER.isdisjoint(completion.flags):
            self._proven = True
            released, self._held = self._held, []
            return released
        if len(self._held) >= PROVEN_BROKEN:
            raise _broken(completion)
        return []

    async def _keep(
        self,
        waiting: "asyncio.Queue[Pending]",
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
            for _, completion in batch:
                self.tokens += completion.tokens
                self._kept += 1
                waiting.task_done()
            bar.set_postfix({"tokens": f"{self.tokens:,}", "failed": self.failed, **at_once()}, refresh=False)
            bar.update(len(batch))

    def _keep_batch(self, batch: list[Pending], offsets: np.ndarray) -> None:
        entries = []
        for question, completion in batch:
            entry: dict[str, Any] = {"key": f"{question.key:016x}", "text": completion.text}
            entry |= {"finish": completion.finish, "tokens": completion.tokens}
            if completion.flags:
                entry["flags"] = list(completion.flags)
            entries.append(entry)
        places = self.journal.append(entries)
        offsets[[question.number for question, _ in batch]] = places


def _broken(completion: Completion) -> ServerError:
    """The error for a run in which no question has an answer."""
    if "only_thoughts" in completion.flags:
        return ServerError(
            "the model thinks and never comes to its answer; give it more --max_tokens, or switch its thinking off at "
            "the server"
        )
    return ServerError(f"the server refuses every request ({completion.text}); see its log")


async def _until_kept(
    workers: list["asyncio.Task[None]"], keeper: "asyncio.Task[None]", waiting: "asyncio.Queue[Pending]"
) -> None:
    """Until all workers are done and their answers on disk; raises what stopped one of them."""
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


async def _drained(waiting: "asyncio.Queue[Pending]", keeper: "asyncio.Task[None]") -> None:
    """Until every answer is on disk, or the disk failed."""
    joined = asyncio.create_task(waiting.join())
    await asyncio.wait([joined, keeper], return_when=asyncio.FIRST_COMPLETED)
    joined.cancel()


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
