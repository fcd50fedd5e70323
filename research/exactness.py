"""What exactness is worth: HR and NDCG of beams against exact ranking, on one trained checkpoint and its dataset.

    python -m research.exactness --model runs/sample --dataset data/sample --split validation

Sequential: constrained beams of several widths, the proven best items, and the published protocol's unconstrained
beams; how many of the true best ten each one finds; each with log-likelihoods as they are and over the length of the
id, where ids differ in length. Top-N: the exact order of the candidates against unconstrained beams.
"""

import argparse
import time
import unittest.mock
from functools import partial

import numpy as np
import torch

from modeling_rdrec.generation_rdrec import ITEM_BEAMS
from rdrec.checkpoints.loading import check_same_catalog, load_pretrained
from rdrec.evaluation.answers import CUTS, answer_items
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData
from rdrec.tasks.scores import hit_and_ndcg


BEAMS = (5, 10, 20, 50)
NOWHERE = 10**9  # rank of a target that is not in the list


def ranks_of(table) -> np.ndarray:
    return np.array([NOWHERE if rank is None else rank for rank in table["rank"].to_pylist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Checkpoint folder.")
    parser.add_argument("--dataset", required=True, help="Built dataset of that checkpoint.")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--max_samples", type=int, help="Only so many users, the first ones.")
    arguments = parser.parse_args()

    data = TaskData(load_tables_of(arguments.dataset))
    model, tokenizer = load_pretrained(arguments.model)
    check_same_catalog(tokenizer, data, arguments.model, arguments.dataset)
    model.eval()
    rows = range(len(data.sequences))[: arguments.max_samples]
    lengths = np.bincount(
        [len(ids) - 1 for ids in tokenizer([str(n) for n in range(1, data.num_items + 1)])["input_ids"]]
    )
    spread = ", ".join(f"{count} of {length}" for length, count in enumerate(lengths) if count)
    print(f"{len(rows)} users, {arguments.split}; {data.num_items} ids, tokens an id: {spread}")

    def answer(task, num_beams=ITEM_BEAMS, **settings):
        began = time.perf_counter()
        # answer_items has the beams of the evaluation; here their number is what is studied.
        with unittest.mock.patch.object(model, "recommend", partial(model.recommend, num_beams=num_beams)):
            table = answer_items(model, tokenizer, data, task, arguments.split, rows, progress=False, **settings)
        return table, len(rows) / (time.perf_counter() - began)

    def line(task, name, table, speed, truth=None):
        scores = hit_and_ndcg(ranks_of(table), CUTS[task])
        found = ""
        if truth is not None:
            pairs = zip(table["items"].to_pylist(), truth["items"].to_pylist())
            shares = [len(set(some[:10]) & set(best[:10])) / max(1, len(best[:10])) for some, best in pairs]
            found = f"  true best ten found {100 * np.mean(shares):5.1f}%"
        print(
            f"{name:<36}"
            + "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
            + f"{found}  {speed:7.1f}/s"
        )

    penalties = (0.0, 1.0) if np.count_nonzero(lengths) > 1 else (0.0,)
    print("\nsequential")
    for penalty in penalties:
        truth, speed = answer("sequential", exact=True, length_penalty=penalty)
        for width in BEAMS:
            name = f"{width} beams, length penalty {penalty:g}"
            line("sequential", name, *answer("sequential", num_beams=width, length_penalty=penalty), truth)
        line("sequential", f"exact, length penalty {penalty:g}", truth, speed, truth)
    if model.config.history == "encoder":
        line("sequential", "published: 20 beams, unconstrained", *answer("sequential", published=True))
    print("\ntop-N, 100 candidates")
    for penalty in penalties:
        line("topn", f"exact, length penalty {penalty:g}", *answer("topn", length_penalty=penalty))
    if model.config.history == "encoder":
        line("topn", "published: 20 beams, unconstrained", *answer("topn", published=True))


if __name__ == "__main__":
    with torch.inference_mode():
        main()
