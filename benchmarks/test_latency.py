"""What `latency.py` and `peers.py` share: whom they ask for, and the figures that they give."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import answer_times, latency
from rdrec.checkpoints.loading import load_pretrained


FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"


def test_users_are_spread_over_the_dataset_and_their_test_item_is_kept_back():
    sequences = [np.array([user, user, -1]) for user in range(1000)]
    calls = []
    figures = answer_times.answer_times(calls.append, sequences)
    single = [call for call in calls if len(call) == 1][answer_times.WARM_UP :]
    assert [int(call[0][0]) for call in single] == list(range(0, 1000, 5))
    batches = [call for call in calls if len(call) > 1]
    assert [len(call) for call in batches] == [256] * 17  # the first warms up
    assert all(len(history) == 2 and -1 not in history for call in calls for history in call)
    assert figures["one_user_calls"] == 200 and figures["one_user_ms_p50"] <= figures["one_user_ms_p95"]


@pytest.mark.slow
def test_latency_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(answer_times, "USERS", 3)
    monkeypatch.setattr(answer_times, "BATCHES", 1)
    model, tokenizer = load_pretrained(str(FIXTURES / "checkpoint"))
    model.config.history = "decoder"
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    output = tmp_path / "latency.json"
    paths = ["--model", str(tmp_path / "checkpoint"), "--dataset", str(FIXTURES / "dataset")]
    monkeypatch.setattr(sys, "argv", ["latency", *paths, "--threads", "1", "--output", str(output)])
    latency.main()
    figures = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["users_per_second"] > 0 and figures["one_user_ms_p95"] > 0
    monkeypatch.setattr(answer_times, "BATCH_SIZE", 2)
    monkeypatch.setattr(sys, "argv", ["latency", *paths, "--threads", "1", "--explain"])
    latency.main()
    explained = json.loads(capsys.readouterr().out)
    assert explained["batch_calls"] == 2 and explained["model"].endswith("explain()")
