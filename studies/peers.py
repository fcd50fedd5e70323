"""Baselines of other libraries, ranked as ours are: item-kNN and ALS of implicit, EASE and SASRec of RecTools.

    make peers                                   # their virtual environment, once
    .peers/bin/python -m studies.peers --dataset data/beauty --model ease --seed 1 --output runs/ease-beauty

`python -m studies run` calls it. Every model is fitted on the training parts (all but the last two items of a user)
with each setting of `GRIDS`, and the one of the highest validation NDCG@10 is measured on the test items: *sequential*
ranks the whole catalog without the user's history after all items before the target, *topn* the user's candidates after
the training part alone. Writes `peer.parquet` (task, user, rank from 1) and `peer.json` (minutes of the fit that was
chosen, its setting, versions).
"""

import argparse
import itertools
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from rectools.models import EASEModel, SASRecModel
from scipy.sparse import csr_matrix

from benchmarks.peers import SETTINGS, as_dataset, network_scores, read_sequences
from rdrec.durable import whole_file, write_json
from rdrec.errors import exit_code
from rdrec.tasks.scores import hit_and_ndcg

from .ranker import Ranker, Score


GRIDS = {
    "item-knn": {"K": [20, 100, 500]},
    "ease": {"regularization": [50.0, 200.0, 800.0]},
    "als": {"factors": [64, 128], "regularization": [0.01, 0.1], "alpha": [1.0, 10.0]},
    "sasrec": {"epochs": [10, 20, 40], "session_max_len": [20]},  # as wide as our recipes: SETTINGS
}


def fit(name: str, settings: dict, dataset, seed: int, threads: int) -> Score:
    """Fit a model on a dataset of RecTools; what is returned scores any histories."""
    known = dataset.item_id_map.get_external_sorted_by_internal()
    if name == "sasrec":
        return _fit_sasrec(settings, dataset, known, seed)

    def as_matrix(histories: list[np.ndarray]) -> csr_matrix:
        offsets = np.concatenate([[0], np.cumsum([len(columns) for columns in histories])])
        cells = np.ones(offsets[-1], np.float32), np.concatenate(histories), offsets
        return csr_matrix(cells, shape=(len(histories), len(known)))

    matrix = dataset.get_user_item_matrix(include_weights=True).astype(np.float32)
    if name == "ease":
        weights = EASEModel(**settings).fit(dataset).weight
        return lambda histories: as_matrix(histories) @ weights
    if name == "item-knn":
        model = CosineRecommender(**settings, num_threads=threads)
        model.fit(matrix, show_progress=False)
        return lambda histories: (as_matrix(histories) @ model.similarity).toarray()
    model = AlternatingLeastSquares(**settings, random_state=seed, num_threads=threads)
    model.fit(matrix, show_progress=False)

    def score(histories: list[np.ndarray]) -> np.ndarray:
        rows = np.arange(len(histories))
        return model.recalculate_user(rows, as_matrix(histories)) @ model.item_factors.T

    return score


def _fit_sasrec(settings: dict, dataset, known: np.ndarray, seed: int) -> Score:
    torch.manual_seed(seed)
    model = SASRecModel(**SETTINGS, **settings, recommend_torch_device="cpu").fit(dataset)
    items, score_items = network_scores(model)
    order = np.argsort(known)
    columns = order[np.searchsorted(known, items, sorter=order)]

    def score(histories: list[np.ndarray]) -> np.ndarray:
        scores = np.full((len(histories), len(known)), -np.inf)  # of an item that only users of one purchase bought
        scores[:, columns] = score_items([known[history] for history in histories]).numpy()
        return scores

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True, help="folder of a built dataset")
    parser.add_argument("--model", choices=list(GRIDS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="CPU threads")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    given = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Lightning would take a GPU unasked
    warnings.filterwarnings("ignore")  # Lightning's advice on loader processes and on the lack of a logger
    torch.set_num_threads(given.threads)
    sequences, untested = read_sequences(given.dataset)
    candidates = pq.read_table(given.dataset / "candidates" / "test.parquet")
    kinds = pq.read_table(given.dataset / "catalog" / "train.parquet", columns=["kind"])["kind"].to_pylist()
    training = [items[:-2] for items in sequences]
    dataset = as_dataset([*training, *untested])
    ranker = Ranker(dataset.item_id_map.get_external_sorted_by_internal(), kinds.count("item"), given.seed)
    tried = []
    for values in itertools.product(*GRIDS[given.model].values()):
        settings = dict(zip(GRIDS[given.model], values))
        began = time.perf_counter()
        score = fit(given.model, settings, dataset, given.seed, given.threads)
        minutes = (time.perf_counter() - began) / 60
        ranks = ranker.in_catalog(score, training, np.array([items[-2] for items in sequences]))
        tried.append((hit_and_ndcg(ranks, [10])["ndcg@10"], minutes, settings, score))
    validation, minutes, settings, score = max(tried, key=lambda one: one[0])
    began = time.perf_counter()
    targets = np.array([items[-1] for items in sequences])
    negatives = np.array(candidates["negatives"].to_pylist())
    ranked = {
        "sequential": ranker.in_catalog(score, [items[:-1] for items in sequences], targets),
        "topn": ranker.among(score, training, targets, negatives),
    }
    users = candidates["user"].to_numpy()
    found = pa.concat_tables(
        pa.table({"task": [task] * len(users), "user": users, "rank": pa.array(ranks, mask=np.isinf(ranks))})
        for task, ranks in ranked.items()
    )
    given.output.mkdir(parents=True, exist_ok=True)
    with whole_file(given.output / "peer.parquet") as work:
        pq.write_table(found, work)
    row = {"minutes": minutes, "minutes_evaluation": (time.perf_counter() - began) / 60, "validation": validation}
    libraries = {name: version(name) for name in ("rectools", "pm-implicit", "numpy", "scipy")}
    write_json(given.output / "peer.json", row | {"chosen": str(settings), "libraries": str(libraries)})
    print(f"{given.model}: {settings}, validation NDCG@10 {validation:.4f}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
