"""How fast a checkpoint of ours answers `recommend`, or `explain`: one user at a time, and many.

    python -m benchmarks.latency --model runs/beauty --dataset data/beauty --threads 2 --output latency.json
    python -m benchmarks.latency --model runs/sample --dataset sample --explain

Raw ids go in and the ten best of the whole catalog, without the history, come out as raw ids: what a service would ask
for; or a user and the item that the user bought last, and a sentence comes out. Loading and warm-up are not timed.
`peers.py` times another library's model with the same histories and writes the same figures.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from benchmarks.answer_times import answer_times
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.durable import write_json
from rdrec.errors import UserError, exit_code
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData


EXPLAINED_BATCHES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint: folder or Hub id")
    parser.add_argument("--dataset", required=True, help="the dataset it was trained on: folder or Hub id")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--explain", action="store_true", help="time explanations instead")
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = TaskData(load_tables_of(arguments.dataset))
    model, tokenizer = load_pretrained(arguments.model)
    check_same_catalog(tokenizer, data, arguments.model, arguments.dataset)
    if model.config.history == "encoder":
        raise UserError(f"{arguments.model}: cannot answer without users: give a checkpoint with history decoder")
    model.eval()
    raw_ids = data.raw_ids["item"]
    if arguments.explain:
        # The last of a sequence is kept back, so here it is nothing.
        pairs = [[user, raw_ids[items[-1] - 1], None] for user, items in zip(data.raw_ids["user"], data.sequences)]
        times = answer_times(lambda asked: model.explain(tokenizer, *map(list, zip(*asked))), pairs, EXPLAINED_BATCHES)
    else:
        sequences = [[raw_ids[item - 1] for item in items] for items in data.sequences]
        # With a single history the answer is a single one, as a service asks: `recommend` takes both forms.
        times = answer_times(
            lambda histories: model.recommend(tokenizer, history=histories if histories[1:] else histories[0], k=10),
            sequences,
        )
    figures = {
        "model": f"{arguments.model}, {'explain' if arguments.explain else 'recommend'}()",
        "dataset": arguments.dataset,
        "items": data.num_items,
        "threads": arguments.threads,
        "torch": torch.__version__,
        **times,
    }
    print(json.dumps(figures))
    if arguments.output:
        write_json(arguments.output, figures)


if __name__ == "__main__":
    sys.exit(exit_code(main))
