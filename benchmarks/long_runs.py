"""Does a long run leak memory or slow down? 2,000 steps of training, then 10,000 answers of one process.

    python -m benchmarks.long_runs --work_dir runs/long

The sample's recipe is trained with its three kinds of rows (recommending, explaining, rationales), ranks and saves
every two hundred steps, and then answers `recommend` for one history after another. Printed, of each tenth: the most
memory that training held, its steps/s (validations included), the memory of the answering process, answers/s.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import psutil
import torch

from rdrec.checkpoints.files import RECORD_FILE
from rdrec.checkpoints.loading import load_pretrained
from rdrec.checkpoints.records import TrainingRecord
from rdrec.durable import write_json
from rdrec.errors import exit_code
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData

from .watching import watched


PARTS = 10


def trained(run: Path, steps: int) -> dict[str, list]:
    """Train for so many steps."""
    length = ["--max_train_steps", str(steps), "--eval_steps", str(steps // PARTS)]
    flags = ["--config", "recipes/sample.yaml", "--output_dir", str(run), "--overwrite_output_dir", *length]
    found = watched([sys.executable, "train.py", *flags])
    minutes = {0: 0.0} | {row["step"]: row["minutes"] for row in TrainingRecord.read(run / RECORD_FILE).validation}
    parts = itertools.pairwise(minutes.items())
    rates = [round((end - start) / (60 * (now - then)), 2) for (start, then), (end, now) in parts]
    return {"memory_mb": found.memory_mb, "steps_per_s": rates}


def answered(model_folder: Path, answers: int) -> dict[str, list]:
    """Recommend in this process, one history at a time."""
    model, tokenizer = load_pretrained(str(model_folder))
    model.eval()
    data = TaskData(load_tables_of("sample"))
    raw_ids, process = data.raw_ids["item"], psutil.Process()
    histories = itertools.cycle([[raw_ids[item - 1] for item in items] for items in data.sequences])
    memory, rates = [], []
    for _ in range(PARTS):
        began = time.perf_counter()
        for history in itertools.islice(histories, answers // PARTS):
            model.recommend(tokenizer, history=history, k=10)
        rates.append(round(answers / PARTS / (time.perf_counter() - began), 1))
        memory.append(round(process.memory_info().rss / 2**20))
    return {"memory_mb": memory, "answers_per_s": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the answering process")
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    run = given.work_dir / "sample"
    found = {"training": trained(run, given.steps), "answering": answered(run, given.answers)}
    print(json.dumps(found))
    if given.output:
        write_json(given.output, found)


if __name__ == "__main__":
    sys.exit(exit_code(main))
