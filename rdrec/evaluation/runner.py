"""One evaluation from flags to files, on one or several processes: load, answer, gather, score, write."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator
from accelerate.utils import gather_object

from dataset_builder.files import sha256_of
from rdrec.checkpoints.environment import package_versions, use_all_cores
from rdrec.checkpoints.files import RESULTS_FILES, weights_file
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.checkpoints.records import DATASET_KEYS, EvaluationResults
from rdrec.durable import whole_file
from rdrec.errors import UserError
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData

from . import model_ranking
from .report import format_table, reference_points


class Evaluation:
    """An evaluation as `eval.py`'s flags ask for it (see `eval.Arguments`)."""

    def __init__(self, arguments):
        self.arguments = arguments
        unknown = [task for task in arguments.tasks if task not in (*model_ranking.CUTS, "explanation")]
        if unknown:
            raise UserError(f"--tasks {unknown[0]}: unknown, take some of sequential, topn, explanation")
        if arguments.split not in ("validation", "test"):
            raise UserError(f"--split {arguments.split}: take validation or test")
        if arguments.protocol not in (None, "clean", "published"):
            raise UserError(f"--protocol {arguments.protocol}: take clean or published")
        for name in ("batch_size", "max_samples"):
            if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
                raise UserError(f"--{name} {getattr(arguments, name)}: give 1 or more")

        if arguments.length_penalty < 0:
            raise UserError(f"--length_penalty {arguments.length_penalty}: give 0 or more")

    def run(self) -> str | None:
        """Evaluate and write the results; the printed table, in the main process only."""
        arguments = self.arguments
        accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
        use_all_cores(accelerator)
        with accelerator.main_process_first():
            tables = load_tables_of(arguments.dataset, arguments.dataset_revision)
        data = TaskData(tables)
        protocol = arguments.protocol or data.protocol
        if protocol == "published" and (arguments.exact or arguments.length_penalty != 0):
            raise UserError("--exact and --length_penalty: for the clean protocol only, published has its own ranking")
        if protocol != data.protocol:
            raise UserError(
                f"--protocol {protocol}: {arguments.dataset} was built under {data.protocol}; build it again with "
                f"--protocol {protocol}, or leave the flag out"
            )
        model, tokenizer = load_pretrained(arguments.model, arguments.model_revision)
        check_same_catalog(tokenizer, data, arguments.model, arguments.dataset)
        model.to(accelerator.device).eval()

        results, answers, minutes = {}, {}, {}
        for task in arguments.tasks:
            queries = model_ranking.count_queries(data, task, arguments.split)
            if queries == 0:
                accelerator.print(f"{task}: the dataset has no rows for it, left out")
                continue
            began = time.perf_counter()
            rows = range(queries if arguments.max_samples is None else min(queries, arguments.max_samples))
            with accelerator.autocast():
                table = self._answer(accelerator, model, tokenizer, data, task, rows, protocol)
            minutes[task] = round((time.perf_counter() - began) / 60, 3)
            if accelerator.is_main_process:
                score = model_ranking.score_texts if task == "explanation" else model_ranking.score_items
                results[task] = score(table) if task == "explanation" else score(table, task)
                answers[task] = table
        if not accelerator.is_main_process:
            return None
        points = reference_points(data, tables, arguments.split, arguments.seed, arguments.max_samples)
        self._write(data, protocol, results, answers, points, minutes, accelerator)
        return format_table(results, points)

    def _answer(self, accelerator, model, tokenizer, data, task, rows, protocol) -> pa.Table:
        """Answers to all rows in order; each process answers every `num_processes`-th row."""
        mine = rows[accelerator.process_index :: accelerator.num_processes]
        common = {"batch_size": self.arguments.batch_size, "progress": accelerator.is_main_process}
        if task == "explanation":
            table = model_ranking.answer_texts(model, tokenizer, data, self.arguments.split, mine, **common)
        else:
            common |= {name: getattr(self.arguments, name) for name in ("seed", "exact", "length_penalty")}
            table = model_ranking.answer_items(
                model, tokenizer, data, task, self.arguments.split, mine, protocol, **common
            )
        if accelerator.num_processes == 1:
            return table
        gathered = gather_object([list(zip(mine, table.to_pylist()))])
        ordered = sorted((pair for part in gathered for pair in part), key=lambda pair: pair[0])
        return pa.Table.from_pylist([row for _, row in ordered], schema=table.schema)

    def _write(self, data, protocol, results, answers, points, minutes, accelerator) -> None:
        arguments = self.arguments
        local = Path(arguments.model)
        output_dir = Path(arguments.output_dir or (local if local.is_dir() else "eval_results"))
        output_dir.mkdir(parents=True, exist_ok=True)
        for task, table in answers.items():
            with whole_file(output_dir / f"eval_{arguments.split}_{task}.parquet") as work:
                pq.write_table(table, work, compression="zstd")
        weights = weights_file(local)
        content = EvaluationResults(
            model=local.name if local.is_dir() else arguments.model,
            model_revision=arguments.model_revision,
            model_sha256=sha256_of(weights) if weights.is_file() else None,
            dataset={key: data.info[key] for key in DATASET_KEYS},
            protocol=protocol,
            split=arguments.split,
            seed=arguments.seed,
            max_samples=arguments.max_samples,
            exact=arguments.exact,
            length_penalty=arguments.length_penalty,
            batch_size=arguments.batch_size,
            mixed_precision=accelerator.mixed_precision,
            processes=accelerator.num_processes,
            queries={task: table.num_rows for task, table in answers.items()},
            results=results,
            reference_points=points,
            minutes=minutes,
            cores=os.cpu_count(),
            versions=package_versions(),
        )
        content.write(output_dir / RESULTS_FILES[arguments.split])
