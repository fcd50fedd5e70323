"""One evaluation from flags to files, on one or several processes: load, answer, gather, score, write."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import gather_object

from dataset_builder.files import sha256_of
from modeling_rdrec.configuration_rdrec import FITTED_ON
from rdrec.checkpoints.environment import package_versions, use_all_cores
from rdrec.checkpoints.files import RESULTS_FILES, weights_file
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.checkpoints.records import DATASET_KEYS, EvaluationResults
from rdrec.durable import whole_file
from rdrec.errors import UserError
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData

from . import answers, explanations
from .baselines import HELD_OUT
from .report import SEGMENT_TEXT_SCORES, format_beyond, format_segments, format_table, reference_points
from .segments import by_segment, in_order, review_lengths, segments, training_counts
from .settings import EvaluationSettings


@dataclass
class Found:
    """What an evaluation has measured, by task."""

    results: dict[str, dict[str, float]] = field(default_factory=dict)
    # The same model asked in another way: task, name of the way, scores.
    variants: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    answers: dict[str, pa.Table] = field(default_factory=dict)
    minutes: dict[str, float] = field(default_factory=dict)
    beyond: dict[str, dict[str, float]] = field(default_factory=dict)
    segments: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)


class Evaluation:
    """An evaluation as the settings ask for it."""

    def __init__(self, settings: EvaluationSettings):
        self.settings = settings
        self.accelerator = Accelerator(mixed_precision=settings.mixed_precision)
        use_all_cores(self.accelerator)
        with self.accelerator.main_process_first():
            self.tables = load_tables_of(settings.dataset, settings.dataset_revision)
        self.data = TaskData(self.tables)
        self.protocol = settings.protocol or self.data.protocol
        if self.protocol == "published" and (settings.exact or settings.length_penalty != 0):
            raise UserError("--exact and --length_penalty: for the clean protocol only, published has its own ranking")
        if self.protocol != self.data.protocol:
            raise UserError(
                f"--protocol {self.protocol}: {settings.dataset} was built under {self.data.protocol}; build it again "
                f"with --protocol {self.protocol}, or leave the flag out"
            )
        self.model, self.tokenizer = load_pretrained(settings.model, settings.model_revision)
        check_same_catalog(self.tokenizer, self.data, settings.model, settings.dataset)
        self._check_unseen()
        self.model.to(self.accelerator.device).eval()

    def _check_unseen(self) -> None:
        """What a model was fitted on cannot measure it."""
        config = self.model.config
        if FITTED_ON[config.fit_on] < HELD_OUT[self.settings.split]:
            mend = "evaluate on test" if config.fit_on == "train+validation" else "train with fit_on train to measure"
            raise UserError(f"{self.settings.model}: fitted on {config.fit_on}, {self.settings.split} included: {mend}")
        if self.protocol == "published" and config.history == "decoder":
            raise UserError(
                f"{self.settings.model}: under the published protocol histories stand in the prompt: train with "
                "history encoder"
            )

    def run(self) -> str | None:
        """Evaluate and write the results; the printed table, in the main process only."""
        settings, found = self.settings, Found()
        for task in settings.tasks:
            queries = answers.count_queries(self.data, task, settings.split)
            if queries == 0:
                self.accelerator.print(f"{task}: the dataset has no rows for it, left out")
                continue
            began = time.perf_counter()
            rows = range(queries if settings.max_samples is None else min(queries, settings.max_samples))
            with self.accelerator.autocast():
                table = self._answer(task, rows)
                found.minutes[task] = round((time.perf_counter() - began) / 60, 3)
                others = {name: self._answer(task, rows, **ways) for name, ways in self._variants(task).items()}
            if self.accelerator.is_main_process:
                found.answers[task] = table
                if task == "explanation":
                    found.results[task], found.variants[task] = self._score_texts(table)
                else:
                    found.results[task] = answers.score_items(table, task)
                    found.variants[task] = {name: answers.score_items(other, task) for name, other in others.items()}
                found.segments[task] = self._segments(task, table)
                if task == "sequential":  # the lists of top-N are drawn, so they say little of what the model shows
                    counts = training_counts(self.data)
                    found.beyond[task] = answers.score_beyond(table, counts, self.data)
        if not self.accelerator.is_main_process:
            return None
        points = reference_points(self.data, self.tables, settings.split, settings.seed, settings.max_samples)
        self._write(found, points)
        tables = [format_table(found.results, found.variants, points), format_beyond(found.beyond)]
        return "\n\n".join(filter(None, [*tables, format_segments(found.segments)]))

    def _variants(self, task: str) -> dict[str, dict]:
        """Other ways to ask the same model, which are reported beside its own."""
        variants, config = {}, self.model.config
        if task == "explanation" or config.history == "encoder":
            return variants
        if config.prior_weight:
            variants["without prior"] = {"prior": False}
        if task == "topn" and FITTED_ON[config.fit_on] > HELD_OUT[self.settings.split]:
            variants["after all"] = {"after_all": True}
        return variants

    def _score_texts(self, table: pa.Table) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Scores of the explanations, and of what the beams or the evidence alone would have said."""
        scores = {}
        for name, column in {"model": "prediction", **explanations.variants_of(table)}.items():
            scores[name] = explanations.score_texts(table, self.data, column)
            scores[name] |= explanations.told_truth(table, self.data, column)
            if self.settings.support:
                scores[name]["support"] = explanations.supported(table, self.data, column)
        model = scores.pop("model")
        if scores:
            model["from_evidence"] = 100.0 * sum(one == "evidence" for one in table["source"].to_pylist()) / len(table)
        return model, scores

    def _segments(self, task: str, table: pa.Table) -> dict[str, dict[str, dict[str, float]]]:
        """The same answers by kind of query; explanations by the length of the user's own sentence."""
        if task != "explanation":
            users, targets = table["user"].to_pylist(), table["target"].to_pylist()
            ranks = table["rank"].cast("float64").fill_null(float("inf")).to_numpy()
            return by_segment(ranks, segments(self.data, self.settings.split, users, targets))
        labels = pa.array(review_lengths(table["reference"].to_pylist()), pa.string())
        parts = {label: table.filter(pc.equal(labels, label)) for label in in_order(labels.to_pylist())}
        scored = {label: (part.num_rows, explanations.score_texts(part, self.data)) for label, part in parts.items()}
        shown = {
            label: {"queries": rows} | {n: s[n] for n in SEGMENT_TEXT_SCORES} for label, (rows, s) in scored.items()
        }
        return {"review": shown}

    def _answer(self, task: str, rows: range, **ways) -> pa.Table:
        """Answers to all rows in order; each process answers every `num_processes`-th row."""
        settings, accelerator = self.settings, self.accelerator
        mine = rows[accelerator.process_index :: accelerator.num_processes]
        asked = (self.model, self.tokenizer, self.data)
        common = {"batch_size": settings.batch_size, "progress": accelerator.is_main_process}
        if task == "explanation":
            table = explanations.answer_texts(*asked, settings.split, mine, **common)
        else:
            common |= {name: getattr(settings, name) for name in ("seed", "exact", "length_penalty")}
            common |= {"published": self.protocol == "published", **ways}
            table = answers.answer_items(*asked, task, settings.split, mine, **common)
        if accelerator.num_processes == 1:
            return table
        gathered = gather_object([list(zip(mine, table.to_pylist()))])
        ordered = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
        return pa.Table.from_pylist([row for _, row in ordered], schema=table.schema)

    def _write(self, found: Found, points) -> None:
        settings, data, accelerator = self.settings, self.data, self.accelerator
        local = Path(settings.model)
        output_dir = Path(settings.output_dir or (local if local.is_dir() else "eval_results"))
        output_dir.mkdir(parents=True, exist_ok=True)
        for task, table in found.answers.items():
            with whole_file(output_dir / f"eval_{settings.split}_{task}.parquet") as work:
                pq.write_table(table, work, compression="zstd")
        weights = weights_file(local)
        content = EvaluationResults(
            model=local.name if local.is_dir() else settings.model,
            model_revision=settings.model_revision,
            model_sha256=sha256_of(weights) if weights.is_file() else None,
            dataset={key: data.info[key] for key in DATASET_KEYS},
            protocol=self.protocol,
            split=settings.split,
            seed=settings.seed,
            max_samples=settings.max_samples,
            exact=settings.exact,
            length_penalty=settings.length_penalty,
            batch_size=settings.batch_size,
            mixed_precision=accelerator.mixed_precision,
            processes=accelerator.num_processes,
            queries={task: table.num_rows for task, table in found.answers.items()},
            results=found.results,
            variants=found.variants,
            beyond_accuracy=found.beyond,
            segments=found.segments,
            fit_on=self.model.config.fit_on,
            reference_points=points,
            minutes=found.minutes,
            cores=os.cpu_count(),
            versions=package_versions(),
        )
        content.write(output_dir / RESULTS_FILES[settings.split])
