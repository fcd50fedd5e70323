r"""What a recipe reaches over several seeds: train, evaluate, and the mean and standard deviation of every figure.

    python -m benchmarks.seeds --config recipes/beauty.yaml --seeds 1 2 3 4 5
    python -m benchmarks.seeds --config recipes/beauty.yaml --seeds 1 2 3 --name beauty-all-but-test -- \
      --fit_on train+validation

A run that is there already (`runs/seeds/NAME-SEED` with its evaluation) is read, not made again, so the command goes on
where it was stopped and two of them may share the seeds of a table between two cores. What follows `--` is given to
`train.py`. Test figures are read here once a recipe is settled, never to choose one.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

from rdrec.checkpoints.files import RECORD_FILE, RESULTS_FILES
from rdrec.checkpoints.records import EvaluationResults, TrainingRecord


def run(config: str, name: str, seed: int, tasks: list[str], more: list[str]) -> Path:
    """The folder of a run, trained and evaluated unless it is already."""
    folder = Path("runs/seeds") / f"{name}-{seed}"
    dataset = yaml.safe_load(Path(config).read_text(encoding="utf-8"))["dataset"]
    flags = ["--config", config, "--seed", str(seed), "--output_dir", str(folder), "--overwrite_output_dir", *more]
    if not (folder / RECORD_FILE).is_file():
        subprocess.run([sys.executable, "train.py", *flags], check=True)
    if not (folder / RESULTS_FILES["test"]).is_file():
        evaluation = ["--model", str(folder), "--dataset", dataset, "--tasks", *tasks]
        subprocess.run([sys.executable, "eval.py", *evaluation], check=True)
    return folder


def figures(folder: Path) -> dict[str, float]:
    """All that a run measured, by name."""
    results = EvaluationResults.read(folder / RESULTS_FILES["test"])
    found = {"minutes": TrainingRecord.read(folder / RECORD_FILE).minutes}
    for task, scores in results.results.items():
        for way, row in {"": scores, **results.variants.get(task, {})}.items():
            found |= {f"{task} {way} {name}".replace("  ", " "): value for name, value in row.items()}
    return found


def main() -> None:
    argv = sys.argv[1:]
    argv, more = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--name", help="default: the recipe's")
    parser.add_argument("--tasks", nargs="+", default=["sequential", "topn", "explanation"])
    given = parser.parse_args(argv)
    name = given.name or Path(given.config).stem
    rows = [figures(run(given.config, name, seed, given.tasks, more)) for seed in given.seeds]
    print(f"{name}: mean ± standard deviation over {len(rows)} seeds")
    for key in rows[0]:
        values = [row[key] for row in rows]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"  {key:40} {statistics.mean(values):9.4f} ± {spread:.4f}")


if __name__ == "__main__":
    main()
