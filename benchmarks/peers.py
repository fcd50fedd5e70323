"""A peer on the same data and cores: RecTools' SASRec, trained and asked for recommendations.

    make peers                                   # its virtual environment, once
    .peers/bin/python -m benchmarks.peers --dataset data/beauty --threads 2 --minutes 60 --output peer.jsonl
    .peers/bin/python -m benchmarks.peers --dataset data/beauty --max_users 300 --minutes 0.2     # does it run?

It trains on all but the last two items of each user, as ours do. After each epoch it ranks the validation items (the
last but one) in the whole catalog without the history and adds a JSON line to --output: `epoch`, `minutes`, `hr@10`,
`ndcg@10`. `minutes` is training without validation; it holds the two or three seconds (Beauty) in which RecTools
prepares its tables anew for each epoch. Training stops after the first epoch that reaches --minutes or --target_ndcg.
An item that the training parts do not hold cannot be recommended by this model and counts as missed.

Then come a line with the test items' figures (nothing was chosen: the model as training left it) and two lines of
answer times, in the form of `latency.py`. One is RecTools' own `recommend`, its tables built from each history. The
other is its network alone, without the library around it: the item vectors are kept, and a matrix product and topk
rank them, as a service written for speed would do.

The model is about as large as that of our recipes: 64 wide, one block of one head, dropout 0.2, batches of 128, the
last 50 items, sampled softmax with 256 negatives a position; all else is RecTools' default. It pads every row to
--max_items and its work grows with that: where histories are short, a smaller number serves it better (on Beauty a
step takes 0.4 of the time with 20).
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from benchmarks.answer_times import answer_times
from rdrec.errors import DatasetError, exit_code
from rdrec.tasks.scores import hit_and_ndcg


K = 10
SETTINGS = {
    "n_factors": 64,
    "n_blocks": 1,
    "n_heads": 1,
    "dropout_rate": 0.2,
    "n_negatives": 256,
    "batch_size": 128,
    "loss": "sampled_softmax",
}


def read_sequences(dataset: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Items of each user, oldest first (int64), of a dataset folder that `dataset_builder` wrote: of those whose last
    two are held out, and of those who train whole (none but in a split by time)."""
    path = dataset / "interactions" / "train.parquet"
    if not path.is_file():
        raise DatasetError(f"{dataset}: no {path.relative_to(dataset)} there: give the folder of a built dataset")
    sequences = [np.array(items) for items in pq.read_table(path, columns=["items"])["items"].to_pylist()]
    tested = pq.read_metadata(dataset / "candidates" / "test.parquet").num_rows
    return sequences[:tested], sequences[tested:]


def as_dataset(histories: Sequence[np.ndarray]) -> Dataset:
    """Histories in RecTools' form, users numbered from 0. Places in a history stand for times."""
    lengths = [len(items) for items in histories]
    return Dataset.construct(
        pd.DataFrame(
            {
                Columns.User: np.repeat(np.arange(len(histories)), lengths),
                Columns.Item: np.concatenate(histories),
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(n) for n in lengths]), unit="s"),
            }
        )
    )


def recommend(model: SASRecModel, histories: Sequence[np.ndarray]) -> pd.DataFrame:
    """The best `K` items of the known catalog without the history: columns user_id (from 0), item_id, score, rank.

    A user of whose items training knew none gets no row.
    """
    users = np.arange(len(histories))
    return model.recommend(
        users=users, dataset=as_dataset(histories), k=K, filter_viewed=True, on_unsupported_targets="ignore"
    )


def network_scores(model: SASRecModel) -> tuple[list[int], Callable[[Sequence[np.ndarray]], torch.Tensor]]:
    """The ids of the items that the trained network knows, and a function from histories to the scores of these,
    float32 [histories, items], without RecTools' tables."""
    network = model.torch_model.eval()
    items = model.data_preparator.item_id_map.get_external_sorted_by_internal().tolist()[1:]  # 0 stands for padding
    place = {item: index for index, item in enumerate(items, start=1)}
    with torch.inference_mode():
        vectors = network.item_model.get_all_embeddings()

    @torch.inference_mode()
    def score(histories: Sequence[np.ndarray]) -> torch.Tensor:
        read = torch.zeros(len(histories), model.session_max_len, dtype=torch.long)
        for row, history in enumerate(histories):
            last = [place[item] for item in history.tolist() if item in place][-model.session_max_len :]
            read[row, model.session_max_len - len(last) :] = torch.tensor(last)
        return (network.encode_sessions({"x": read}, vectors)[:, -1] @ vectors.T)[:, 1:]

    return items, score


def network_alone(model: SASRecModel) -> Callable[[Sequence[np.ndarray]], list[list[int]]]:
    """Answers from the trained network without RecTools' tables: histories in, lists of `K` items out."""
    items, score = network_scores(model)
    place = {item: index for index, item in enumerate(items)}

    @torch.inference_mode()
    def answer(histories: Sequence[np.ndarray]) -> list[list[int]]:
        scores = score(histories)
        for row, history in enumerate(histories):
            scores[row, [place[item] for item in history.tolist() if item in place]] = -torch.inf
        return [[items[index] for index in row] for row in scores.topk(K).indices.tolist()]

    return answer


def ranking(model: SASRecModel, sequences: Sequence[np.ndarray], held_out: int) -> dict[str, float]:
    """HR@10 and NDCG@10 of each user's item `held_out` places from the end, after the items before it."""
    found = recommend(model, [items[:-held_out] for items in sequences])
    targets = np.array([items[-held_out] for items in sequences])
    hits = found[found[Columns.Item].to_numpy() == targets[found[Columns.User]]]
    ranks = np.full(len(sequences), np.inf)
    ranks[hits[Columns.User]] = hits[Columns.Rank]
    return {name: round(value, 5) for name, value in hit_and_ndcg(ranks, [K]).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="folder of a built dataset")
    parser.add_argument("--minutes", type=float, required=True, help="of training, after which no epoch begins")
    parser.add_argument("--target_ndcg", type=float, default=1.0, help="validation NDCG@10 at which training ends")
    parser.add_argument("--validation_users", type=int, help="validate on so many, drawn by seed; default: all")
    parser.add_argument("--max_users", type=int, help="know only the dataset's first users, to try this file")
    parser.add_argument("--max_items", type=int, default=50, help="last items of a history that are read")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--output", type=Path, help="add the lines to this file, too")
    arguments = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Lightning would take a GPU unasked; ours is timed on the CPU
    warnings.filterwarnings("ignore")  # Lightning's advice on loader processes and on the lack of a logger
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    def report(line: dict) -> None:
        print(json.dumps(line), flush=True)
        if arguments.output:
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    sequences, untested = read_sequences(arguments.dataset)
    if arguments.max_users is not None:
        sequences, untested = sequences[: arguments.max_users], []
    validated = sequences
    if arguments.validation_users is not None and arguments.validation_users < len(sequences):
        rng = np.random.default_rng(arguments.seed)
        chosen = rng.choice(len(sequences), arguments.validation_users, replace=False)
        validated = [sequences[row] for row in np.sort(chosen)]
    settings = {
        **SETTINGS,
        "session_max_len": arguments.max_items,
        "lr": arguments.learning_rate,
    }
    model = SASRecModel(**settings, recommend_torch_device="cpu")
    training = as_dataset([*(items[:-2] for items in sequences), *untested])
    common = {
        "model": f"RecTools {version('rectools')} SASRec",
        "dataset": str(arguments.dataset),
        "threads": arguments.threads,
        "torch": torch.__version__,
    }
    report({**common, **settings, "seed": arguments.seed, "validation_users": len(validated)})
    epoch, minutes, scores = 0, 0.0, {"ndcg@10": 0.0}
    while minutes < arguments.minutes and scores["ndcg@10"] < arguments.target_ndcg:
        began = time.perf_counter()
        model.fit_partial(training, min_epochs=1, max_epochs=1)
        epoch, minutes = epoch + 1, minutes + (time.perf_counter() - began) / 60
        scores = ranking(model, validated, held_out=2)
        report({"epoch": epoch, "minutes": round(minutes, 3), **scores})

    report({"split": "test", "epoch": epoch, **ranking(model, sequences, held_out=1)})
    common["items"] = len(model.data_preparator.get_known_item_ids())
    for how, answer in {
        "recommend()": lambda histories: recommend(model, histories),
        "its network alone": network_alone(model),
    }.items():
        report({**common, "model": f"{common['model']}, {how}", **answer_times(answer, sequences)})


if __name__ == "__main__":
    sys.exit(exit_code(main))
