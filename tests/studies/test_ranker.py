"""Ranks from scores, against a plain count, and the peers' command where its environment is there."""

import json
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdrec.evaluation.baselines import rank_sequential
from studies import ranker as module
from studies.ranker import Ranker
from tests.conftest import ROOT


def test_ranks_are_those_of_a_plain_count(monkeypatch):
    monkeypatch.setattr(module, "USERS_AT_ONCE", 7)  # so that there are several batches
    rng = np.random.default_rng(0)
    known = np.array([9, 2, 5, 7, 3, 1, 8])  # 4, 6 and 10 do not train
    weights = rng.integers(0, 3, (len(known), len(known))).astype(float)  # many ties
    ranker = Ranker(known, 10, seed=3)
    histories = [rng.permutation(np.arange(1, 11))[: rng.integers(1, 5)] for _ in range(30)]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(1, 11), items)) for items in histories])
    negatives = np.array([rng.permutation(np.setdiff1d(np.arange(1, 11), [t]))[:4] for t in targets])

    def expected(items, target, others):
        def key(item):
            columns = [list(known).index(i) for i in items if i in known]
            score = sum(weights[c, list(known).index(item)] for c in columns) if item in known else -np.inf
            return -score, ranker.place[item]

        return 1 + sum(key(other) < key(target) for other in others)

    def score(batch):
        return np.array([weights[columns].sum(axis=0) for columns in batch])

    found = ranker.in_catalog(score, histories, targets)
    assert found.tolist() == [
        expected(items, t, [i for i in range(1, 11) if i not in items]) for items, t in zip(histories, targets)
    ]
    found = ranker.among(score, histories, targets, negatives)
    assert found.tolist() == [expected(*one) for one in zip(histories, targets, negatives)]
    # What the user has bought already is not recommended again.
    again = ranker.in_catalog(score, histories, np.array([items[0] for items in histories]))
    assert np.isinf(again).all()


def test_ties_depend_on_the_seed_alone():
    def ranks(seed):
        ranker = Ranker(np.arange(1, 101), 100, seed)
        return ranker.in_catalog(lambda batch: np.zeros((len(batch), 100)), [np.array([1])] * 50, np.arange(2, 52))

    assert ranks(1).tolist() == ranks(1).tolist() != ranks(2).tolist()
    assert 35 < ranks(1).mean() < 65  # a target is not put before its equals


@pytest.mark.slow
@pytest.mark.parametrize("model", ["item-knn", "ease", "als", "sasrec"])
def test_peers_beat_popularity_on_the_sample(model, sample_dir, sample_data, tmp_path):
    python = ROOT / ".peers" / "bin" / "python"
    if not python.is_file():
        pytest.skip("no .peers: `make peers` makes the environment of the other libraries")
    command = [python, "-m", "studies.peers", "--dataset", sample_dir, "--model", model, "--output", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True)
    assert json.loads((tmp_path / "peer.json").read_text())["validation"] > 0.1
    ranks = pq.read_table(tmp_path / "peer.parquet", filters=[("task", "=", "sequential")])["rank"].to_numpy()
    popular = rank_sequential(sample_data.sequences, "test", "popularity", sample_data.num_items)
    assert len(ranks) == 400 and (ranks <= 10).mean() > 3 * (popular <= 10).mean()
