"""A distillation run: reviews are read, asked about, journaled, and written as `rationales.parquet`.

    info = distill(Settings(reviews="reviews.json.gz", endpoint=["http://127.0.0.1:8080"], output="runs/distilled"))

The reviews are streamed three times, so that a file of any size fits in memory (some 60 bytes a review stay): once
to find equal texts, once to ask about each text that the journal does not hold, once to write. The output is made from
reviews and journal alone, in the order of the reviews, so it does not depend on when which answer came.
"""

import asyncio
import hashlib
import json
import os
import sys
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builder.errors import DatasetError
from dataset_builder.files import existing_file
from dataset_builder.reviews import Review, ReviewSource, read_reviews

from .client import Answer, GaveUp, Pool, ServerLost, teacher_name
from .journal import Journal
from .parse import parse_answer
from .prompts import Prompt, load_prompt, prepare
from .settings import Settings


JOURNAL_FILE = "journal.jsonl"
OUTPUT_FILE = "rationales.parquet"
INFO_FILE = "distill_info.json"
SCHEMA = pa.schema(
    [
        ("review_row", pa.int64()),
        ("user_preference", pa.string()),
        ("item_attributes", pa.string()),
        ("teacher", pa.string()),
        ("prompt", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)
ROW_GROUP = 20_000  # rows held in memory while writing
WAITING = 1024  # answers that may wait for the disk
PROVEN_BROKEN = 16  # so many refusals before any answer: the request is wrong, not the reviews

Ask = Callable[[list[dict[str, str]], int], Awaitable[Answer]]


class Stopped(DatasetError):
    """The run ended before all was done; what was answered is in the journal, and the same command goes on."""


def distill(
    settings: Settings, *, reviews: ReviewSource | None = None, ask: Ask | None = None, progress: bool = True
) -> dict[str, Any]:
    """Distil reviews; go on where an earlier run in the same folder stopped.

    Parameters
    ----------
    settings : Settings
    reviews : path or callable, optional
        Instead of `settings.reviews`, see `dataset_builder.reviews`.
    ask : coroutine function, optional
        Instead of the servers: gets the messages and a seed, returns an Answer. Needs `settings.model`.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        What `distill_info.json` holds: settings, counts, flags with their counts.

    Raises
    ------
    Stopped
        Servers lost midway, a full disk, or reviews without an answer.
    DatasetError
        Settings or reviews that cannot be used, other settings than the journal's, a folder in use, no server.
    """
    return asyncio.run(_Run(settings, reviews or settings.reviews, ask, progress).go())


class _Run:
    def __init__(self, settings: Settings, reviews: ReviewSource, ask: Ask | None, progress: bool):
        self.settings = settings
        self.reviews = reviews
        self.ask = ask
        self.progress = progress
        self.prompt: Prompt = load_prompt(settings.prompt)
        self.folder = Path(settings.output)
        self.sampling = {
            name: getattr(self.prompt if getattr(settings, name) is None else settings, name)
            for name in ("temperature", "top_p", "max_tokens")
        }
        self.failed = 0
        self.tokens = 0
        self.last_failure = ""
        self.held: list[tuple[int, Answer]] = []  # refusals before the first answer

    async def go(self) -> dict[str, Any]:
        if not callable(self.reviews):
            existing_file(self.reviews)
        if self.folder.exists() and not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: is a file; name a folder")
        if (self.folder / OUTPUT_FILE).exists() and not (self.folder / JOURNAL_FILE).exists():
            raise DatasetError(f"{self.folder}: holds {OUTPUT_FILE} but no journal; name another --output")
        pool = self._pool() if self.ask is None else None
        with Journal(self.folder / JOURNAL_FILE) as self.journal:
            if pool is None:
                self._plan(self.settings.model or "")
                await self._ask_all(self.ask, None)
            else:
                async with pool:
                    await self._with_servers(pool)
            return self._write()

    def _pool(self) -> Pool:
        return Pool(
            self.settings.endpoint,
            self.prompt,
            **self.sampling,
            concurrency=self.settings.concurrency,
            guided=self.settings.guided,
            timeout=self.settings.timeout,
            patience=self.settings.patience,
            note=lambda line: tqdm.write(f"note: {line}", file=sys.stderr),
        )

    async def _with_servers(self, pool: Pool) -> None:
        # Servers first: that none is there is told before a large file is read. Only where the journal may already
        # hold all answers are they not needed.
        away = None
        header = self.journal.header
        known = None if header is None else header["settings"].get("model")
        try:
            model = await pool.connect(self.settings.model)
        except DatasetError as error:
            if not self.journal.keys or known is None:
                raise
            away, model = error, self.settings.model or known
        self._plan(model)
        if away is not None and self.missing:
            raise away
        await self._ask_all(pool.ask, pool)

    # ---- planning ----

    def _read(self, what: str, total: int | None = None, skipped: Counter[str] | None = None) -> Iterator[Review]:
        rows = read_reviews(self.reviews, skipped=Counter() if skipped is None else skipped)
        rows = islice(rows, self.settings.max_reviews)
        return tqdm(rows, desc=what, unit=" rows", total=total, disable=not self.progress, mininterval=_interval())

    def _plan(self, model: str) -> None:
        """Number the texts; compare the settings; find which texts the journal lacks."""
        self.skipped: Counter[str] = Counter()
        keys = array("Q")
        digest = hashlib.sha256()
        for review in self._read("reading reviews", skipped=self.skipped):
            text, _ = prepare(review.text, self.settings.max_review_chars)
            key = _key(text) if text else 0
            digest.update(key.to_bytes(8, "big"))
            keys.append(key)
        # Texts are numbered by the order of their keys; `first` is the review that stands for all with its text.
        self.texts, first, self.text_of_review = np.unique(
            np.frombuffer(keys, dtype=np.uint64), return_index=True, return_inverse=True
        )
        self.offset_of_text = np.full(len(self.texts), -1, dtype=np.int64)
        no_text = bool(len(self.texts)) and self.texts[0] == 0
        self.total = len(self.texts) - int(no_text)
        self._compare(
            {
                "prompt": self.prompt.name,
                "prompt_sha256": self.prompt.sha256,
                "model": model,
                **self.sampling,
                "seed": self.settings.seed,
                "guided": self.settings.guided != "off" and self.prompt.schema is not None,
                "max_review_chars": self.settings.max_review_chars,
                "max_reviews": self.settings.max_reviews,
                "reviews_sha256": digest.hexdigest(),
            }
        )
        held = np.frombuffer(self.journal.keys, dtype=np.uint64)
        place = np.searchsorted(self.texts, held)
        known = place < len(self.texts)
        known[known] = self.texts[place[known]] == held[known]
        self.offset_of_text[place[known]] = np.frombuffer(self.journal.offsets, dtype=np.int64)[known]
        to_ask = np.zeros(len(keys), dtype=bool)
        to_ask[first[self.offset_of_text < 0]] = True
        if no_text:
            to_ask[first[0]] = False
        self.to_ask = to_ask
        self.missing = int(to_ask.sum())

    def _compare(self, now: dict[str, Any]) -> None:
        if self.journal.header is None:
            self.journal.begin(now)
            return
        before = self.journal.header["settings"]
        for name, value in now.items():
            if before.get(name) == value:
                continue
            what = {"prompt_sha256": "the text of the prompt", "reviews_sha256": "the reviews"}.get(name)
            change = f"{what} changed" if what else f"{name} was {before.get(name)!r} and is now {value!r}"
            raise DatasetError(f"{self.folder}: begun under other settings: {change}; name another --output")

    # ---- asking ----

    def _questions(self) -> Iterator[tuple[int, str]]:
        """(number of the text, prepared text) of everything that the journal lacks."""
        reviews = read_reviews(self.reviews, skipped=Counter())
        for position, review in enumerate(islice(reviews, len(self.to_ask))):
            if self.to_ask[position]:
                text, _ = prepare(review.text, self.settings.max_review_chars)
                yield int(self.text_of_review[position]), text

    async def _ask_all(self, ask: Ask, pool: Pool | None) -> None:
        if not self.missing:
            return
        self.pool = pool
        self.proven = len(self.journal.keys) > 0
        self.bar = tqdm(
            desc="distilling",
            unit=" texts",
            total=self.total,
            initial=self.total - self.missing,
            disable=not self.progress,
            mininterval=_interval(),
            smoothing=0.05,
        )
        waiting: asyncio.Queue[tuple[int, Answer]] = asyncio.Queue(WAITING)
        questions = self._questions()
        count = min(pool.concurrency if pool else self.settings.concurrency, self.missing)
        workers = [asyncio.create_task(self._work(ask, questions, waiting)) for _ in range(count)]
        keeper = asyncio.create_task(self._keep(waiting))
        try:
            try:
                pending: set[asyncio.Task[None]] = set(workers)
                while pending:
                    done, pending = await asyncio.wait([*pending, keeper], return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()  # raises what stopped it
                    pending.discard(keeper)
                await self._drained(waiting, keeper)
                if keeper.done():
                    keeper.result()
            finally:
                # However it ends: no new questions, and what was answered goes to disk.
                await _cancel(workers)
                await self._drained(waiting, keeper)
                await _cancel([keeper])
                self.bar.close()
        except DatasetError as error:
            if self.done or isinstance(error, ServerLost):
                raise Stopped(f"{error}; {self._count()}") from error
            raise
        except asyncio.CancelledError:  # ctrl-C
            tqdm.write(f"note: {self._count()}", file=sys.stderr)
            raise
        if self.held:
            raise DatasetError(f"the server refuses every request ({self.held[0][1].text}); see its log")
        if self.failed:
            raise Stopped(
                f"{self.failed} texts got no answer ({self.last_failure}); {self._count()}; "
                "--allow_failures leaves them empty"
            )

    async def _work(
        self, ask: Ask, questions: Iterator[tuple[int, str]], waiting: "asyncio.Queue[tuple[int, Answer]]"
    ) -> None:
        for number, text in questions:
            seed = (self.settings.seed * 1_000_003 + int(self.texts[number])) % 2**31
            try:
                answer = await ask(self.prompt.messages(text), seed)
            except GaveUp as error:
                self.last_failure = str(error)
                self.failed += not self.settings.allow_failures
                if not self.settings.allow_failures:
                    continue
                answer = Answer(str(error), "error", 0, ("failed",))
            if not self.proven:
                if "rejected" in answer.flags:
                    # Kept back until an answer shows that the request as such is right.
                    self.held.append((number, answer))
                    if len(self.held) >= PROVEN_BROKEN:
                        raise DatasetError(f"the server refuses every request ({answer.text}); see its log")
                    continue
                self.proven = True
                for one in self.held:
                    await waiting.put(one)
                self.held = []
            await waiting.put((number, answer))

    async def _keep(self, waiting: "asyncio.Queue[tuple[int, Answer]]") -> None:
        """Write answers as they come, as many as wait in one flush of the disk."""
        while True:
            batch = [await waiting.get()]
            while not waiting.empty():
                batch.append(waiting.get_nowait())
            # Shielded: cancelled in the middle of a write, the next write would begin inside it.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._keep_batch, batch))
            for _, answer in batch:
                self.tokens += answer.tokens
                waiting.task_done()
            self._show(len(batch))

    def _keep_batch(self, batch: list[tuple[int, Answer]]) -> None:
        entries = []
        for number, answer in batch:
            entry: dict[str, Any] = {"key": f"{int(self.texts[number]):016x}", "text": answer.text}
            entry |= {"finish": answer.finish, "tokens": answer.tokens}
            if answer.flags:
                entry["flags"] = list(answer.flags)
            entries.append(entry)
        offsets = self.journal.append(entries)
        self.offset_of_text[[number for number, _ in batch]] = offsets

    async def _drained(self, waiting: "asyncio.Queue[tuple[int, Answer]]", keeper: "asyncio.Task[None]") -> None:
        """Until every answer is on disk, or the disk failed."""
        joined = asyncio.create_task(waiting.join())
        await asyncio.wait([joined, keeper], return_when=asyncio.FIRST_COMPLETED)
        joined.cancel()

    @property
    def done(self) -> int:
        return int((self.offset_of_text >= 0).sum())

    def _count(self) -> str:
        return f"{self.done:,} of {self.total:,} texts are done and kept; run the same command to go on"

    def _show(self, count: int) -> None:
        after = {"tokens": f"{self.tokens:,}", "failed": self.failed}
        if self.pool is not None:
            after |= {"retries": self.pool.retries, "at once": self.pool.limit}
        self.bar.set_postfix(after, refresh=False)
        self.bar.update(count)

    # ---- writing ----

    def _write(self) -> dict[str, Any]:
        """Write the rationales of all reviews, and what they are."""
        teacher = teacher_name(self.journal.header["settings"]["model"])
        counts: Counter[str] = Counter()
        flag_counts: Counter[str] = Counter()

        def batches() -> Iterator[pa.RecordBatch]:
            rows: list[dict[str, Any]] = []
            for position, review in enumerate(self._read("writing", len(self.to_ask))):
                row = self._row(position, review, teacher)
                counts.update(reviews=1, rationales=any(row[half] for half in ("user_preference", "item_attributes")))
                flag_counts.update(row["flags"])
                rows.append(row)
                if len(rows) == ROW_GROUP:
                    yield pa.RecordBatch.from_pylist(rows, SCHEMA)
                    rows.clear()
            if rows:
                yield pa.RecordBatch.from_pylist(rows, SCHEMA)

        def write_table(path: Path) -> None:
            with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
                for batch in batches():
                    writer.write_batch(batch)

        _whole(self.folder / OUTPUT_FILE, write_table)
        info = {
            "settings": self.journal.header["settings"] | {"model": teacher},
            "counts": {"reviews": counts["reviews"], "texts": self.total, "with_rationale": counts["rationales"]},
            "flags": dict(sorted(flag_counts.items())),
            "skipped": dict(sorted(self.skipped.items())),
        }
        text = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
        _whole(self.folder / INFO_FILE, lambda path: path.write_text(text, encoding="utf-8"))
        return info

    def _row(self, position: int, review: Review, teacher: str) -> dict[str, Any]:
        row: dict[str, Any] = {"review_row": review.row, "teacher": teacher, "prompt": self.prompt.label}
        halves: tuple[str | None, str | None] = (None, None)
        text, was_cut = prepare(review.text, self.settings.max_review_chars)
        flags = {"review_cut"} if was_cut else set()
        if not text:
            flags.add("no_text")
        else:
            entry = self.journal.read(int(self.offset_of_text[self.text_of_review[position]]))
            flags.update(entry.get("flags", ()))
            if not flags & {"rejected", "failed"}:
                halves, found = parse_answer(entry["text"], entry["finish"])
                flags.update(found)
        return row | {"user_preference": halves[0], "item_attributes": halves[1], "flags": sorted(flags)}


def _key(text: str) -> int:
    # 64 bits: among a million texts two would share a key once in 37 million such files. 0 stands for "no text".
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") or 1


def _interval() -> float:
    return 0.5 if sys.stderr.isatty() else 10.0


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    work = target.parent / f".{target.name}.writing-{os.getpid()}"
    try:
        write(work)
        handle = os.open(work, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        work.replace(target)
    except OSError as error:
        raise DatasetError(f"{target}: cannot be written ({error.strerror or error}); the journal is intact") from error
    finally:
        work.unlink(missing_ok=True)
