"""Recommendations for all users of a dataset, from flags to one file, on one or several processes.

    Recommending(RecommendingSettings(model="runs/mine", dataset="data/mine", output="tonight.parquet")).run()

Users are cut into parts of a fixed size. Each process answers every `num_processes`-th of the parts that are not there
yet; the first one puts them together.
"""

import hashlib
import json
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from tqdm.auto import tqdm

from rdrec.checkpoints.environment import use_all_cores
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.errors import UserError
from rdrec.memory import give_back_freed_memory
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData

from .ids import read_items, read_users
from .parts import Parts
from .settings import RecommendingSettings


COLUMNS = [("user", pa.string()), ("items", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))]
EXPLANATIONS = ("explanations", pa.list_(pa.string()))


class Recommending:
    """A run as the settings ask for it.

    Raises
    ------
    UserError
        For a model and a dataset that do not belong together, or files of ids that cannot be used.
    """

    def __init__(self, settings: RecommendingSettings):
        self.settings = settings
        # The slowest process may be a part behind the others, and a part takes as long as it takes.
        patient = InitProcessGroupKwargs(timeout=timedelta(days=7))
        self.accelerator = Accelerator(mixed_precision=settings.mixed_precision, kwargs_handlers=[patient])
        use_all_cores(self.accelerator)
        with self.accelerator.main_process_first():
            tables = load_tables_of(settings.dataset, settings.dataset_revision)
        if settings.explain and not any(tables.info["counts"]["rationales"].values()):
            raise UserError(f"--explain: {settings.dataset} has no review texts, so its models learned no explanations")
        # Texts of reviews are the most of a dataset, and no question reads them.
        self.data = TaskData(replace(tables, rationales={name: held[:0] for name, held in tables.rationales.items()}))
        self.model, self.tokenizer = load_pretrained(settings.model, settings.model_revision)
        if self.tokenizer.catalog is None:
            raise UserError(f"{settings.model}: knows no catalog: give a checkpoint that was trained on the dataset")
        check_same_catalog(self.tokenizer, self.data, settings.model, settings.dataset)
        self._read_files()
        schema = pa.schema([*COLUMNS, EXPLANATIONS] if settings.explain else COLUMNS)
        self.parts = Parts(Path(settings.output), schema)
        self.model.to(self.accelerator.device).eval()

    def _read_files(self) -> None:
        settings, say = self.settings, self._say
        self.users, self.excluded = list(range(1, len(self.data.everyone) + 1)), []
        if settings.users is not None:
            self.users, repeated = read_users(settings.users, self.tokenizer)
            if repeated:
                say(f"{settings.users}: {repeated:,} rows repeat a user, who is answered once")
        if settings.exclude is not None:
            self.excluded, unknown = read_items(settings.exclude, self.tokenizer)
            others = f"; {unknown:,} rows name none of the catalog" if unknown else ""
            say(f"{settings.exclude}: {len(self.excluded):,} items are left out{others}")

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            print(f"note: {line}", file=sys.stderr)

    def _content(self) -> dict:
        """All that the content of the file depends on."""
        settings = self.settings
        return {
            **{name: getattr(settings, name) for name in ("k", "explain", "exact", "batch_size", "users_a_part")},
            "mixed_precision": self.accelerator.mixed_precision,
            "model_sha256": _sha256_of_model(self.model, self.tokenizer),
            "dataset_fingerprint": self.data.info["fingerprint"],
            "users_sha256": _sha256(np.array(self.users)),
            "exclude_sha256": _sha256(np.array(self.excluded, dtype=np.int64)),
        }

    def run(self) -> str | None:
        """Answer what is not answered yet and write the file; a line of figures, in the main process only.

        Raises
        ------
        UserError
            For an output that is there, was begun with other settings, or is being written by another run.
        KeyboardInterrupt
            Stopped; its message says what is done and kept.
        """
        main = self.accelerator.is_main_process
        with self.parts.open(self._content(), self.settings.overwrite) if main else nullcontext():
            self.accelerator.wait_for_everyone()  # the others find what the first one has begun
            return self._run()

    def _run(self) -> str | None:
        accelerator = self.accelerator
        count = -(-len(self.users) // self.settings.users_a_part)
        missing = self.parts.missing(count)
        accelerator.wait_for_everyone()  # nobody writes before all have looked
        began = time.perf_counter()
        try:
            self._answer_parts(missing[accelerator.process_index :: accelerator.num_processes])
            accelerator.wait_for_everyone()
            seconds = time.perf_counter() - began
            if not accelerator.is_main_process:
                return None
            self.parts.assemble(count)
        except KeyboardInterrupt:
            if not accelerator.is_main_process:
                sys.exit(130)  # one line is enough
            kept = count - len(self.parts.missing(count))
            raise KeyboardInterrupt(
                f"interrupted: {kept:,} of {count:,} parts are done and kept in {self.parts.folder}; run the same "
                "command to go on"
            ) from None
        answered = sum(len(self._users_of(number)) for number in missing)
        before = f", {len(self.users) - answered:,} were there" if answered < len(self.users) else ""
        return (
            f"{self.parts.output}: {len(self.users):,} users{before}; {answered:,} answered in {seconds:.1f} s, "
            f"{answered / seconds:,.0f} users/s"
        )

    def _users_of(self, part: int) -> list[int]:
        size = self.settings.users_a_part
        return self.users[part * size : (part + 1) * size]

    def _answer_parts(self, numbers: list[int]) -> None:
        accelerator = self.accelerator
        alone = accelerator.num_processes == 1
        bar = tqdm(
            desc="recommending" if alone else f"recommending (process 1 of {accelerator.num_processes})",
            unit=" users",
            total=sum(len(self._users_of(number)) for number in numbers),
            disable=not accelerator.is_main_process,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )
        with bar, torch.inference_mode(), accelerator.autocast():
            for number in numbers:
                users, answers = self._users_of(number), []
                for start in range(0, len(users), self.settings.batch_size):
                    answers.append(self._answer(users[start : start + self.settings.batch_size]))
                    bar.update(answers[-1].num_rows)
                # One chunk a column, so that the bytes of the file depend on its rows alone.
                self.parts.write(number, pa.concat_tables(answers).combine_chunks())
                give_back_freed_memory()  # batches differ in shape: what one leaves free does not fit the next

    def _answer(self, users: list[int]) -> pa.Table:
        """Rows of the file for users, given and asked by internal ids."""
        ranked = self.model.recommend(
            self.tokenizer,
            [self.data.everyone[user - 1].tolist() for user in users],
            user=users,
            k=self.settings.k,
            exclude=self.excluded,
            exact=self.settings.exact,
            internal_ids=True,
        )
        raw = self.data.raw_ids
        columns = [
            [raw["user"][user - 1] for user in users],
            [[raw["item"][item - 1] for item in answer.items] for answer in ranked],
            [answer.scores for answer in ranked],
        ]
        if self.settings.explain:
            columns.append(self._explain(users, [answer.items for answer in ranked]))
        return pa.table(columns, schema=self.parts.schema)

    def _explain(self, users: list[int], items: list[list[int]]) -> list[list[str | None]]:
        """A sentence for each item of each user; null where nothing is known of the item."""
        of_user = [user for user, row in zip(users, items) for _ in row]
        flat = [item for row in items for item in row]
        # For a user who wrote no review the items speak.
        bought = [self.data.everyone[user - 1] for user in of_user]
        sentences = self.model.explain(self.tokenizer, of_user, flat, bought, internal_ids=True) if flat else []
        ends = np.cumsum([len(row) for row in items])
        return [sentences[end - len(row) : end] for end, row in zip(ends, items)]


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.tobytes()).hexdigest()


def _sha256_of_model(model, tokenizer) -> str:
    """A hash of all that answers depend on: weights, configuration, vocabulary, prior, evidence; wherever from."""
    config = model.config.to_dict()
    for name in ("_name_or_path", "transformers_version", "auto_map", "custom_pipelines"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(tokenizer.backend_tokenizer.to_str().encode())
    if tokenizer.transitions is not None:
        digest.update(tokenizer.transitions.edges.tobytes())
    if tokenizer.evidence is not None:
        digest.update(tokenizer.evidence.rows.tobytes())
        digest.update(tokenizer.evidence.content.tobytes())
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
