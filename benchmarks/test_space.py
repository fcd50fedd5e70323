"""What `space.py` prints: every answer is counted, and an error ends it."""

import json
import sys

import pytest

from benchmarks import space
from rdrec.errors import UserError


@pytest.mark.slow
def test_it_counts_what_was_answered_and_ends_at_an_error(monkeypatch, tmp_path, capsys):
    import gradio as gr

    server = gr.Server()
    items = [f"B{number}" for number in range(20)]
    wrong = []

    @server.get("/")
    def page() -> str:
        return "page"

    @server.api(name="search")
    def search(words: str) -> dict:
        return {"found": [{"id": item} for item in items[:2]]}

    @server.api(name="recommend")
    def recommend(history: list[str]) -> dict:
        left = [item for item in items if item not in history or wrong]
        return {"items": [{"id": item} for item in left[:8]]}

    @server.api(name="explain")
    def explain(items: list[str], history: list[str]) -> list:
        return [{"id": item} for item in items]

    @server.api(name="without")
    def without(item: str, history: list[str]) -> list:
        return [{"id": one} for one in history]

    app, url, _ = server.launch(prevent_thread_lock=True, quiet=True)
    output = tmp_path / "space.json"
    asked = ["--url", url, "--sessions", "3", "--seconds", "1", "--output", str(output)]
    try:
        monkeypatch.setattr(sys, "argv", ["space", *asked])
        space.main()
        figures = json.loads(output.read_text())
        assert json.loads(capsys.readouterr().out) == figures
        assert figures["sessions"] == 3 and figures["errors"] == 0 and figures["page"]["answers"] == 3
        for name in ("search", "recommend", "explain", "without"):
            assert figures[name]["answers"] >= 3 and 0 < figures[name]["ms_p50"] <= figures[name]["ms_p95"]
        wrong.append(True)
        with pytest.raises(ValueError, match="were recommended"):
            space.main()
    finally:
        app.get_blocks().close(verbose=False)
    monkeypatch.setattr(sys, "argv", ["space", "--url", "http://127.0.0.1:9"])
    with pytest.raises(UserError, match="nobody answers: start `make space` first"):
        space.main()
