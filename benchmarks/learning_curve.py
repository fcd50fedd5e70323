"""Validation NDCG@10 against minutes of training, several runs in one plot.

    python -m benchmarks.learning_curve --runs runs/curve/decoder runs/curve/encoder \\
      --names "history in the decoder" "history in the encoder" --output docs/evidence/learning_curve.svg

Reads the training records that runs leave behind; `minutes` there include the validations.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt

from rdrec.checkpoints.files import RECORD_FILE
from rdrec.checkpoints.records import TrainingRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", required=True)
    parser.add_argument("--names", nargs="+", help="one for each run; default: the folders' names")
    parser.add_argument("--line", type=float, help="NDCG@10 of what needs no training, as a dashed line")
    parser.add_argument("--output", required=True)
    given = parser.parse_args()
    figure, axes = plt.subplots(figsize=(6, 3.5))
    for folder, name in zip(given.runs, given.names or [Path(run).name for run in given.runs], strict=True):
        validations = TrainingRecord.read(Path(folder) / RECORD_FILE).validation
        points = [(row["minutes"], row["ndcg@10"]) for row in validations]
        print(name, *(f"{minutes:.1f}:{value:.4f}" for minutes, value in points))
        axes.plot(*zip(*points), marker="o", markersize=3, label=name)
    if given.line is not None:
        axes.axhline(given.line, linestyle="--", color="gray", label="counted transitions")
    axes.set(xlabel="minutes", ylabel="NDCG@10, validation", ylim=(0, None))
    axes.legend()
    figure.tight_layout()
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.output)


if __name__ == "__main__":
    main()
