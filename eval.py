"""Evaluate a checkpoint: sequential and top-N recommendation, explanations.

    python eval.py --model runs/sample --dataset sample
    accelerate launch eval.py --model runs/beauty --dataset data/beauty --tasks sequential topn

Prints a table beside baselines that learn nothing and writes `eval_results.json` and the answers, one Parquet file a
task with each user's rank, into --output_dir.
"""

import os
from dataclasses import dataclass, field


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from rdrec.arguments import parse_arguments, run  # noqa: E402
from rdrec.evaluation.runner import Evaluation  # noqa: E402


TASKS = ("sequential", "topn", "explanation")


@dataclass
class Arguments:
    model: str = field(metadata={"help": "Checkpoint: folder or Hub model id."})
    dataset: str = field(metadata={"help": "Built dataset: folder, Hub dataset id, or 'sample'."})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "Which of sequential, topn, explanation."}
    )
    protocol: str | None = field(
        default=None, metadata={"help": "clean or published; default: what the dataset was built under."}
    )
    exact: bool = field(
        default=False,
        metadata={"help": "Sequential: the proven best of the whole catalog instead of 20 beams (clean)."},
    )
    length_penalty: float = field(
        default=0.0,
        metadata={"help": "Divide log-likelihoods by an id's tokens to this power (clean; published has 1)."},
    )
    split: str = field(default="test", metadata={"help": "validation or test."})
    output_dir: str | None = field(default=None, metadata={"help": "Default: the model's folder, else eval_results."})
    batch_size: int = field(default=32, metadata={"help": "Users a batch."})
    max_samples: int | None = field(default=None, metadata={"help": "Only so many queries a task, the first ones."})
    mixed_precision: str | None = field(default=None, metadata={"help": "no or bf16."})
    seed: int = field(default=0, metadata={"help": "Seed of the candidates' order and of the baselines' ties."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})


def main() -> int:
    arguments = parse_arguments(Arguments, __doc__)
    table = Evaluation(arguments).run()
    if table is not None:
        print(table)
    return 0


if __name__ == "__main__":
    run(main)
