"""What `serving.py` prints: every request is answered and counted."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import serving


FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"


@pytest.mark.slow
def test_serving_writes_what_it_prints_and_loses_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(serving, "WARM_UP", 2)
    output = tmp_path / "serving.json"
    paths = ["--model", str(FIXTURES / "checkpoint"), "--dataset", str(FIXTURES / "dataset")]
    asked = ["--clients", "5", "--requests", "20", "--threads", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["serving", *paths, *asked])
    serving.main()  # ends in an error where a request is lost
    figures = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out) == figures
    assert figures["requests"] == 20 and figures["lost"] == 0
    assert 0 < figures["ms_p50"] <= figures["ms_p95"] and figures["requests_per_second"] > 0
