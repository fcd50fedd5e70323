"""Evaluate a checkpoint: sequential and top-N recommendation, explanations.

    python eval.py --model runs/sample --dataset sample
    accelerate launch eval.py --model runs/beauty --dataset data/beauty --tasks sequential topn

Prints a table beside baselines that learn nothing and writes `eval_results.json` and the answers, one Parquet file a
task with each user's rank, into --output_dir.
"""

import os


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rdrec.arguments import parse_arguments, run  # noqa: E402
from rdrec.evaluation.runner import Evaluation  # noqa: E402
from rdrec.evaluation.settings import EvaluationSettings  # noqa: E402


def main() -> int:
    table = Evaluation(parse_arguments(EvaluationSettings, __doc__)).run()
    if table is not None:
        print(table)
    return 0


if __name__ == "__main__":
    run(main)
