"""Kill -9 at random moments: what is answered stays answered, and the output is that of an uninterrupted run.

    figures = kill_and_go_on(folder, texts=240, kills=3, delay=0.05, seed=5)

Starts distill.py against a chat server in this process, kills it with SIGKILL, starts it again with the same command,
and so on; then compares with a run that nobody killed. `research/distill_kill.py` does it with more of both.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from rdrec.distillation.asking import key_of
from rdrec.distillation.run import JOURNAL_FILE, OUTPUT_FILE
from tests.fakes.loopback import Loopback, Reply, chat, sentences


ROOT = Path(__file__).resolve().parents[2]


def write_reviews(path: Path, texts: int) -> Path:
    """A reviews file; every tenth row repeats an earlier text."""
    with open(path, "w", encoding="utf-8") as stream:
        for row in range(texts + texts // 10):
            number = row if row < texts else (row - texts) * 10
            review = {"reviewerID": f"u{row % 97}", "asin": f"a{row % 89}", "unixReviewTime": row}
            stream.write(json.dumps(review | {"reviewText": f"Number {number} works well, said é."}) + "\n")
    return path


def command(reviews: Path, url: str, output: Path) -> list[str]:
    """The command that is given again and again."""
    options = ["--prompt", "published", "--concurrency", "8", "--patience", "20"]
    paths = ["--reviews", str(reviews), "--endpoint", url, "--output", str(output)]
    return [sys.executable, str(ROOT / "distill.py"), *paths, *options]


def journaled(folder: Path) -> set[int]:
    """Keys of the whole lines of a journal."""
    path = folder / JOURNAL_FILE
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return {int(json.loads(line)["key"], 16) for line in lines}


def kill_and_go_on(folder: Path, *, texts: int, kills: int, delay: float, seed: int) -> dict[str, int]:
    """Kill a run `kills` times and finish it; AssertionError where a promise is broken. Returns figures."""
    rng = random.Random(seed)
    reviews = write_reviews(folder / "reviews.jsonl", texts)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done_before: list[tuple[float, set[int]]] = []
    torn = 0
    with Loopback(lambda question: Reply(chat(sentences(question.text)), delay=delay)) as server:
        for _ in range(kills):
            begun = len(server.asked)
            process = subprocess.Popen(
                command(reviews, server.url, folder / "killed"), env=environment, stderr=subprocess.DEVNULL
            )
            # Most kills fall while it asks: after its first question, and some time that leaves work for the others.
            start = time.monotonic()
            while len(server.asked) == begun and process.poll() is None and time.monotonic() < start + 30:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 1.6 * delay * texts / 8 / (kills + 1)))
            process.send_signal(signal.SIGKILL)
            process.wait()
            path = folder / "killed" / JOURNAL_FILE
            torn += path.exists() and not path.read_bytes().endswith(b"\n")
            done_before.append((time.monotonic(), journaled(folder / "killed")))
        subprocess.run(command(reviews, server.url, folder / "killed"), env=environment, check=True)
        asked = [(question.at, key_of(question.text)) for question in server.asked]
        subprocess.run(command(reviews, server.url, folder / "whole"), env=environment, check=True)
    for moment, done in done_before:
        again = {key for at, key in asked if at > moment} & done
        assert not again, f"{len(again)} texts were asked again after their answer was journaled"
    assert len(journaled(folder / "killed")) == len({key for _, key in asked}) == texts
    outputs = [(folder / name / OUTPUT_FILE).read_bytes() for name in ("killed", "whole")]
    assert outputs[0] == outputs[1], "the output differs from that of an uninterrupted run"
    held = [len(done) for _, done in done_before]
    return {
        "texts": texts,
        "kills": kills,
        "kills before the end": sum(count < texts for count in held),
        "torn last lines": torn,
        "questions": len(asked),
        "asked again, unanswered or unjournaled at a kill": len(asked) - texts,
        "journaled at first kill": held[0],
        "journaled at last kill": held[-1],
    }
