"""A shop's month after month: 80% of the time line, then all of it; what is kept, and how fast a warm start is there.

    python -m benchmarks.refresh --reviews reviews.csv.zip --rationales rationales.jsonl \\
      --config recipes/musical_instruments.yaml --work_dir runs/refresh

The oldest 80% of the reviews make the first dataset and the first model. All reviews then extend that dataset (`build
--extend`). On it two models are trained by the same recipe: a new one with all its steps, and one that goes on from the
first model with a quarter of them. Printed are the ids and rationales that were kept and the best validation NDCG@10 of
both models, with the recipe's learning_rate unless --warm_rate gives another for the warm start.

Everything is left in --work_dir; a run that is there already with the same settings is read, not made again.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.cold_start import trained
from dataset_builder import build_tables, load_tables, write_dataset
from dataset_builder.rationales import RATIONALE_TASKS, review_key
from dataset_builder.reviews import read_reviews
from dataset_builder.tables import Tables
from rdrec.arguments import parse_arguments, run
from rdrec.checkpoints.records import TrainingRecord
from rdrec.durable import write_json, write_text
from rdrec.tasks.data import TaskData
from rdrec.training.recipe import Recipe


SHARE_OF_TIME, SHARE_OF_STEPS = 0.8, 0.25
RESULTS_FILE = "refresh.json"


def split_by_time(reviews: str, rationales: str | None, folder: Path) -> tuple[Path, Path, Path | None]:
    """Files of the reviews up to 80% of the time line, of all reviews, and of the rationales.

    Rationales that name a row of the reviews file get the key of that review, as `distill.py` writes it now.
    """
    rows = list(read_reviews(reviews, skipped=Counter()))
    last = np.quantile([row.timestamp for row in rows], SHARE_OF_TIME)
    folder.mkdir(parents=True, exist_ok=True)
    before, after, keyed = (folder / name for name in ("before.jsonl", "after.jsonl", "rationales.jsonl"))
    for path, limit in ((before, last), (after, np.inf)):
        fields = ("user", "item", "timestamp", "text", "rating", "summary")
        write_lines(path, [{name: getattr(row, name) for name in fields} for row in rows if row.timestamp <= limit])
    if rationales is None:
        return before, after, None
    key_of = {row.row: review_key(row)._asdict() for row in rows}
    lines = [json.loads(line) for line in Path(rationales).read_text(encoding="utf-8").splitlines()]
    write_lines(keyed, [line | key_of.get(line.pop("review_row", None), {}) for line in lines])
    return before, after, keyed


def write_lines(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def run_of(config: str, dataset: Path, output: Path, *more: str) -> TrainingRecord:
    """The record of a run, trained unless it is there already; leaves with 130 where it was stopped."""
    flags = ["--config", config, "--dataset", str(dataset), "--output_dir", str(output), *more]
    recipe = parse_arguments(Recipe, __doc__, [*flags, "--overwrite_output_dir"])
    return trained(recipe, load_tables(dataset).info["fingerprint"]) or sys.exit(130)


def kept(before: Tables, after: Tables) -> dict[str, int]:
    """How much of a dataset stands in the one that extends it: ids in their place, rationales on their review."""
    found = {}
    for kind in ("user", "item"):
        old, new = (TaskData(tables).raw_ids[kind] for tables in (before, after))
        same = sum(a == b for a, b in zip(old, new))
        found |= {f"{kind}s": len(old), f"{kind}s kept at their id": same, f"{kind}s after": len(new)}
    old, new = rationales_of(before), rationales_of(after)
    return found | {"rationales": len(old), "rationales kept": len(old & new), "rationales after": len(new)}


def rationales_of(tables: Tables) -> set[tuple]:
    columns = ("user", "item", *RATIONALE_TASKS)
    rows = {row for held in tables.rationales.values() for row in zip(*(held[name].to_pylist() for name in columns))}
    return {row for row in rows if any(row[2:])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", required=True, help="file of reviews")
    parser.add_argument("--rationales", help="their rationales")
    parser.add_argument("--config", default="recipes/musical_instruments.yaml", help="recipe of the new models")
    parser.add_argument("--warm_rate", type=float, help="learning_rate of the warm start; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work_dir", type=Path, default=Path("runs/refresh"))
    given = parser.parse_args()
    work = given.work_dir
    before, after, rationales = split_by_time(given.reviews, given.rationales, work)
    common = {"rationales": rationales, "progress": False}
    first = build_tables(before, domain="before", **common)
    write_dataset(first, work / "dataset-before", overwrite=True)
    second = build_tables(after, domain="after", extend=work / "dataset-before", **common)
    write_dataset(second, work / "dataset-after", overwrite=True)
    stays = kept(first, second)
    print(", ".join(f"{name} {count:,}" for name, count in stays.items()))

    seed = ["--seed", str(given.seed)]
    run_of(given.config, work / "dataset-before", work / "run-before", *seed)
    new = run_of(given.config, work / "dataset-after", work / "run-new", *seed)
    steps = round(SHARE_OF_STEPS * new.steps)
    flags = ["--model_name_or_path", str(work / "run-before"), "--max_train_steps", str(steps)]
    flags += ["--eval_steps", str(-(-steps // 4))]
    if given.warm_rate is not None:
        flags += ["--learning_rate", str(given.warm_rate)]
    warm = run_of(given.config, work / "dataset-after", work / "run-warm", *seed, *flags)

    rows = {"new": new, "warm start": warm}
    result = {
        name: {"steps": record.steps, "ndcg@10": record.best_metric, "minutes": record.minutes, "prior": record.prior}
        for name, record in rows.items()
    }
    write_json(work / RESULTS_FILE, {"kept": stays, "fingerprint": second.info["fingerprint"], **result})
    for name, row in result.items():
        print(
            f"{name:12} {row['steps']:>6} steps {row['minutes']:>6.1f} minutes  validation NDCG@10 {row['ndcg@10']:.4f}"
        )
    return 0


if __name__ == "__main__":
    run(main)
