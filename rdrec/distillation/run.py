"""A distillation run: reviews are read, asked about, journaled, and written as `rationales.parquet`.

    info = distill(Settings(reviews="reviews.json.gz", endpoint=["http://127.0.0.1:8080"], output="runs/distilled"))

The reviews are streamed three times, so that a file of any size fits in memory (some 60 bytes a review stay): once
to find equal texts, once to ask about each text that the journal does not hold, once to write. While writing, the
policy (if one is chosen) looks at each half and may ask again. The output is made from reviews and journal alone, in
the order of the reviews, so it does not depend on when which answer came.
"""

import asyncio
import hashlib
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builder.columns import Chosen, parse_columns, told
from dataset_builder.files import data_files
from dataset_builder.rationales import KEY_COLUMNS, RATIONALE_TASKS, review_key
from dataset_builder.reviews import Review, ReviewSource, read_reviews
from rdrec.durable import whole_file, write_json
from rdrec.errors import UserError, printable
from rdrec.grounding.policy import Policy
from rdrec.grounding.score import model_folder

from .asking import Asking, Question, Stopped, Teacher, key_of
from .client import Pool, teacher_name
from .endpoints import ServerError
from .journal import Journal
from .prompts import Prompt, load_prompt, prepare
from .second_look import JUDGE_FILE, SecondLook, halves_of
from .settings import Settings


__all__ = ["INFO_FILE", "JOURNAL_FILE", "OUTPUT_FILE", "Stopped", "distill"]


JOURNAL_FILE = "journal.jsonl"
OUTPUT_FILE = "rationales.parquet"
INFO_FILE = "distill_info.json"
SCHEMA = pa.schema(
    [
        ("review_row", pa.int64()),
        *((column, pa.string()) for column in KEY_COLUMNS),
        ("user_preference", pa.string()),
        ("item_attributes", pa.string()),
        ("teacher", pa.string()),
        ("prompt", pa.string()),
        ("flags", pa.list_(pa.string())),
    ]
)
# What the policy adds, for each half: its score, the audit's flags, what was chosen, and how often it was asked again.
POLICY_SCHEMA = pa.schema(
    [
        field
        for half in RATIONALE_TASKS
        for field in (
            (f"{half}_grounding", pa.float32()),
            (f"{half}_flags", pa.list_(pa.string())),
            (f"{half}_choice", pa.string()),
            (f"{half}_asks", pa.int32()),
        )
    ]
)
ROW_GROUP = 20_000  # rows held in memory while writing
LOOK_GROUP = 4_000  # rows that the policy looks at together, and whose re-asks go out together


def distill(
    settings: Settings, *, reviews: ReviewSource | None = None, ask: Teacher | None = None, progress: bool = True
) -> dict[str, Any]:
    """Distil reviews; go on where an earlier run in the same folder stopped, also over a refreshed file of reviews.

    Parameters
    ----------
    settings : Settings
    reviews : path or callable, optional
        Instead of `settings.reviews`, see `dataset_builder.reviews`.
    ask : coroutine function, optional
        Instead of the servers: gets the messages, a seed and a temperature (None: that of the settings), returns a
        Completion. Needs `settings.model`.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        What `distill_info.json` holds: settings, counts, flags with their counts, and the policy's choices.

    Raises
    ------
    Stopped
        Servers lost midway, a full disk, or reviews without an answer.
    ServerError
        No server, or one that does not take what it is asked.
    UserError
        Settings or reviews that cannot be used, other settings than the journal's, a folder in use.
    """
    return asyncio.run(_Run(settings, reviews or settings.reviews, ask, progress).go())


class _Run:
    def __init__(self, settings: Settings, reviews: ReviewSource, ask: Teacher | None, progress: bool):
        self.settings = settings
        self.reviews = reviews
        self.read = partial(read_reviews, reviews, columns=parse_columns(settings.columns), needs=("text",))
        self.ask = ask
        self.progress = progress
        self.prompt: Prompt = load_prompt(settings.prompt)
        self.folder = Path(settings.output)
        self.sampling = {
            name: value if getattr(settings, name) is None else getattr(settings, name)
            for name, value in self.prompt.sampling.items()
        }
        self.policy = None if settings.policy == "off" else Policy(asks=settings.asks, fallback=settings.policy)
        self.judge_prompt = load_prompt(str(JUDGE_FILE)) if settings.judge else None
        self.away: ServerError | None = None  # why no server can be reached

    async def go(self) -> dict[str, Any]:
        if not callable(self.reviews):
            data_files(self.reviews)
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: is a file; name a folder")
        if (self.folder / OUTPUT_FILE).exists() and not (self.folder / JOURNAL_FILE).exists():
            raise UserError(f"{self.folder}: holds {OUTPUT_FILE} but no journal; name another --output")
        if self.policy is not None:
            model_folder()  # told now rather than after the last answer
        self.pool = self._pool(self.prompt, self.sampling) if self.ask is None else None
        with Journal(self.folder / JOURNAL_FILE) as self.journal:
            if self.pool is None:
                self._plan(self.settings.model or "")
                return await self._go_on(None)
            async with self.pool:
                self.ask = self.pool.ask
                await self._plan_with_servers(self.pool)
                if self.judge_prompt is None:
                    return await self._go_on(None)
                async with self._pool(self.judge_prompt, self.judge_prompt.sampling) as judge:
                    if self.away is None:
                        await judge.connect(self.settings.model)
                    return await self._go_on(judge.ask)

    async def _go_on(self, judge: Teacher | None) -> dict[str, Any]:
        await self._ask_all()
        if self.policy is None:
            return self._write(None)
        with self._bar("asking again", " questions", 0) as bar:
            look = SecondLook(
                self.journal,
                self.policy,
                self.prompt,
                teacher=self.ask,
                judge=(self.judge_prompt, judge or self.ask) if self.judge_prompt else None,
                asking=self._asking,
                away=self.away,
                max_review_chars=self.settings.max_review_chars,
                bar=bar,
                at_once=self._at_once,
            )
            return await asyncio.to_thread(self._write, look)

    def _pool(self, prompt: Prompt, sampling: dict[str, Any]) -> Pool:
        return Pool(
            self.settings.endpoint,
            prompt,
            **sampling,
            concurrency=self.settings.concurrency,
            guided=self.settings.guided,
            timeout=self.settings.timeout,
            patience=self.settings.patience,
            note=lambda line: tqdm.write(f"note: {printable(line)}", file=sys.stderr),
        )

    async def _plan_with_servers(self, pool: Pool) -> None:
        # Servers first: that none is there is told before a large file is read. Only where the journal may already
        # hold all answers are they not needed.
        header = self.journal.header
        known = None if header is None else header["settings"].get("model")
        try:
            model = await pool.connect(self.settings.model)
        except ServerError as error:
            if not self.journal.keys or known is None:
                raise
            self.away, model = error, self.settings.model or known
        self._plan(model)
        if self.away is not None and self.missing:
            raise self.away

    # ---- planning ----

    def _bar(self, what: str, unit: str, total: int | None = None, done: int = 0) -> tqdm:
        return tqdm(
            desc=what,
            unit=unit,
            total=total,
            initial=done,
            disable=not self.progress,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
            smoothing=0.05,
        )

    def _plan(self, model: str) -> None:
        """Number the texts; compare the settings; find which texts the journal lacks."""
        keys, digest = self._read_texts()
        # Texts are numbered by the order of their keys; `first` is the review that stands for all with its text.
        self.texts, first, self.text_of_review = np.unique(keys, return_index=True, return_inverse=True)
        no_text = bool(len(self.texts)) and self.texts[0] == 0
        self.total = len(self.texts) - int(no_text)
        # Which reviews they are changes no answer: a refreshed file goes on with those that it shares with the last.
        self.of_reviews = {"max_reviews": self.settings.max_reviews, "reviews_sha256": digest}
        are_others = self._compare(
            {
                "prompt": self.prompt.name,
                "prompt_sha256": self.prompt.sha256,
                "model": model,
                **self.sampling,
                "seed": self.settings.seed,
                "guided": self.settings.guided != "off" and self.prompt.schema is not None,
                "max_review_chars": self.settings.max_review_chars,
            }
        )
        self.offset_of_text = self._journaled()
        self.to_ask = np.zeros(len(keys), dtype=bool)
        self.to_ask[first[self.offset_of_text < 0]] = True
        if no_text:
            self.to_ask[first[0]] = False
        self.missing = int(self.to_ask.sum())
        if are_others:
            known = self.total - self.missing
            note = f"other reviews than this folder began with: {known:,} of {self.total:,} texts are answered already"
            tqdm.write(f"note: {note}", file=sys.stderr)

    def _read_texts(self) -> tuple[np.ndarray, str]:
        """Each review's key (0: no text) as uint64, and a hash of them all."""
        self.skipped: Counter[str] = Counter()
        keys = array("Q")
        digest = hashlib.sha256()
        columns: Chosen = {}
        reviews = islice(self.read(skipped=self.skipped, chosen=columns), self.settings.max_reviews)
        with self._bar("reading reviews", " rows") as bar:
            for review in reviews:
                text, _ = prepare(review.text, self.settings.max_review_chars)
                key = key_of(text) if text else 0
                digest.update(key.to_bytes(8, "big"))
                keys.append(key)
                bar.update()
        if self.progress:
            tqdm.write(f"note: columns: {told(columns)}", file=sys.stderr)
        return np.frombuffer(keys, dtype=np.uint64), digest.hexdigest()

    def _journaled(self) -> np.ndarray:
        """Where the journal holds the answer to each text, int64; -1 where it does not."""
        offsets = np.full(len(self.texts), -1, dtype=np.int64)
        held = np.frombuffer(self.journal.keys, dtype=np.uint64)
        place = np.searchsorted(self.texts, held)
        known = place < len(self.texts)
        known[known] = self.texts[place[known]] == held[known]
        offsets[place[known]] = np.frombuffer(self.journal.offsets, dtype=np.int64)[known]
        return offsets

    def _compare(self, now: dict[str, Any]) -> bool:
        """Refuse other settings than the journal's, or begin one; whether it was begun with other reviews."""
        if self.journal.header is None:
            self.journal.begin(now | self.of_reviews)
            return False
        before = self.journal.header["settings"]
        for name, value in now.items():
            if before.get(name) == value:
                continue
            change = f"{name} was {before.get(name)!r} and is now {value!r}"
            if name == "prompt_sha256":
                change = "the text of the prompt changed"
            raise UserError(f"{self.folder}: begun under other settings: {change}; name another --output")
        return any(before.get(name) != value for name, value in self.of_reviews.items())

    # ---- asking ----

    def _questions(self) -> Iterator[Question]:
        """Everything that the journal lacks."""
        reviews = self.read(skipped=Counter())
        for position, review in enumerate(islice(reviews, len(self.to_ask))):
            if self.to_ask[position]:
                text, _ = prepare(review.text, self.settings.max_review_chars)
                number = int(self.text_of_review[position])
                yield Question(number, int(self.texts[number]), self.prompt.messages(text))

    async def _ask_all(self) -> None:
        if not self.missing:
            return
        with self._bar("distilling", " texts", self.total, self.total - self.missing) as bar:
            asking = self._asking(self.missing)
            await asking.all(self.ask, self._questions(), self.offset_of_text, bar, self._at_once)

    def _asking(self, most: int) -> Asking:
        return Asking(
            self.journal,
            concurrency=min(self.pool.concurrency if self.pool else self.settings.concurrency, most),
            seed=self.settings.seed,
            allow_failures=self.settings.allow_failures,
            count=self._count,
        )

    def _at_once(self) -> dict[str, Any]:
        return {"retries": self.pool.retries, "at once": self.pool.at_once} if self.pool else {}

    def _count(self) -> str:
        done = int((self.offset_of_text >= 0).sum())
        left = f", {self.total - done:,} are left" if done < self.total else ""
        return f"{done:,} of {self.total:,} texts are done and kept{left}; run the same command to go on"

    # ---- writing ----

    def _write(self, look: SecondLook | None) -> dict[str, Any]:
        """Write the rationales of all reviews, and what they are."""
        schema = SCHEMA if look is None else pa.unify_schemas([SCHEMA, POLICY_SCHEMA])
        counts = _Counts()
        table_file, info_file = self.folder / OUTPUT_FILE, self.folder / INFO_FILE
        with (
            self._bar("writing", " rows", len(self.to_ask)) as bar,
            _journal_is_intact(table_file),
            whole_file(table_file) as work,
            pq.ParquetWriter(work, schema, compression="zstd") as writer,
        ):
            for rows in self._rows(look):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
                counts.add(rows)
                bar.update(len(rows))
        info = self._info(counts)
        with _journal_is_intact(info_file):
            write_json(info_file, info)
        return info

    def _rows(self, look: SecondLook | None) -> Iterator[list[dict[str, Any]]]:
        """The output's rows in groups, as the policy leaves them."""
        reviews = enumerate(islice(self.read(skipped=Counter()), len(self.to_ask)))
        while group := list(islice(reviews, LOOK_GROUP if look else ROW_GROUP)):
            rows = [self._row(position, review) for position, review in group]
            yield rows if look is None else look.apply(rows, [review.text for _, review in group])

    def _info(self, counts: "_Counts") -> dict[str, Any]:
        info = {
            "settings": self.journal.header["settings"] | {"model": self._teacher()} | self.of_reviews,
            "counts": {"reviews": counts.reviews, "texts": self.total, "with_rationale": counts.rationales},
            "flags": dict(sorted(counts.flags.items())),
            "skipped": dict(sorted(self.skipped.items())),
        }
        if self.policy is not None:
            info["policy"] = {
                "threshold": self.policy.threshold,
                "asks": self.policy.asks,
                "fallback": self.policy.fallback,
                "judge": self.judge_prompt.label if self.judge_prompt else None,
                "choices": {half: dict(sorted(found.items())) for half, found in counts.choices.items()},
            }
        return info

    def _teacher(self) -> str:
        return teacher_name(self.journal.header["settings"]["model"])

    def _row(self, position: int, review: Review) -> dict[str, Any]:
        row: dict[str, Any] = {"review_row": review.row, **review_key(review)._asdict()}
        row |= {"teacher": self._teacher(), "prompt": self.prompt.label}
        halves: tuple[str | None, str | None] = (None, None)
        text, was_cut = prepare(review.text, self.settings.max_review_chars)
        flags = {"review_cut"} if was_cut else set()
        if not text:
            flags.add("no_text")
        else:
            halves, found = halves_of(self.journal.read(int(self.offset_of_text[self.text_of_review[position]])))
            flags |= found
        return row | {"user_preference": halves[0], "item_attributes": halves[1], "flags": sorted(flags)}


class _Counts:
    """What was written, in figures."""

    def __init__(self) -> None:
        self.reviews = self.rationales = 0
        self.flags: Counter[str] = Counter()
        self.choices: dict[str, Counter[str]] = {half: Counter() for half in RATIONALE_TASKS}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        self.reviews += len(rows)
        self.rationales += sum(any(row[half] for half in RATIONALE_TASKS) for row in rows)
        self.flags.update(flag for row in rows for flag in row["flags"])
        for half, choices in self.choices.items():
            choices.update(row[f"{half}_choice"] for row in rows if f"{half}_choice" in row)


@contextmanager
def _journal_is_intact(target: Path) -> Iterator[None]:
    """Say of a file that cannot be written that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); the journal is intact") from error
