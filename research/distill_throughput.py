"""Is the client ever the bottleneck, and does memory stay flat?

    python -m research.distill_throughput                          # 200 ms server, 64 at once: at most 320 answers/s
    python -m research.distill_throughput --stream 1000000         # so many reviews, answers without a server

The first asks a chat server in another process that takes 200 ms for each answer; the rate counts from the first
to the last journaled answer of the whole run, flushes of the disk included. The second runs
everything but HTTP (reading, planning, asking, journal, Parquet) over a streamed source that is never in memory.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from rdrec.distillation.responses import Completion
from rdrec.distillation.run import distill
from rdrec.distillation.settings import Settings
from tests.fakes.loopback import sentences


WORDS = "lamp dim strong clip cheap switch bright cable light warm cold handle price box colour".split()


def source(count: int):
    """A callable that streams so many distinct reviews of about forty words."""

    def rows():
        for number in range(count):
            text = " ".join(WORDS[(number >> place) % len(WORDS)] for place in range(40))
            yield {
                "reviewerID": f"u{number % 9973}",
                "asin": f"a{number % 997}",
                "unixReviewTime": number,
                "reviewText": f"{number} {text}",
            }

    return rows


def resident() -> float:
    """Resident memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status")


class Watch:
    """Samples memory, and the length of the journal, every quarter second while a run goes on."""

    def __init__(self, folder: Path):
        self.journal = folder / "journal.jsonl"
        self.samples: list[tuple[float, float, int]] = []  # seconds, MB, bytes of the journal
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            size = self.journal.stat().st_size if self.journal.exists() else 0
            self.samples.append((time.monotonic(), resident(), size))

    def flatness(self) -> str:
        """Memory at a tenth, half and all of the asking."""
        end = max(size for _, _, size in self.samples)
        asking = [(size, memory) for _, memory, size in self.samples if size > end / 10]
        at = [next(memory for size, memory in asking if size >= share * end) for share in (0.1, 0.5, 1.0)]
        peak = max(memory for _, memory, _ in self.samples)
        return f"memory at 10, 50, 100 % of the answers: {', '.join(f'{m:.0f}' for m in at)} MB; peak {peak:.0f} MB"


def with_server(count: int, concurrency: int, delay: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "tests.fakes.loopback", str(port), str(delay)])
    try:
        for _ in range(100):
            time.sleep(0.1)
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            settings = Settings(
                reviews="-",
                endpoint=[f"http://127.0.0.1:{port}"],
                output=place,
                prompt="published",
                model="teacher",
                concurrency=concurrency,
            )
            cpu, begun = time.process_time(), time.monotonic()
            with Watch(folder) as watch:
                distill(settings, reviews=source(count))
            cpu = time.process_time() - cpu
            lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
            header, total = len(lines[0]), sum(map(len, lines))
            started = [at for at, _, size in watch.samples if size > header][0] - 0.25
            ended = [at for at, _, size in watch.samples if size < total][-1] + 0.25
            steady = [(at, size) for at, _, size in watch.samples if total * 0.2 < size < total * 0.9]
            steady_rate = (steady[-1][1] - steady[0][1]) / (steady[-1][0] - steady[0][0]) / (total / len(lines))
            most = concurrency / delay
            print(f"{count:,} answers, {delay * 1000:.0f} ms each, {concurrency} at once: at most {most:.0f}/s")
            whole = count / (ended - started)
            print(
                f"whole run {whole:.0f}/s ({whole / most:.1%}), steady {steady_rate:.0f}/s ({steady_rate / most:.1%})"
            )
            print(f"{cpu / count * 1000:.2f} ms CPU an answer, {time.monotonic() - begun:.1f} s in all")
            print(watch.flatness())
    finally:
        server.terminate()
        server.wait()


def without_server(count: int) -> None:
    async def ask(messages: list[dict[str, str]], seed: int, temperature: float | None = None) -> Completion:
        return Completion(sentences(messages[-1]["content"]), "stop", 20)

    with tempfile.TemporaryDirectory() as place:
        settings = Settings(reviews="-", endpoint=[], output=place, prompt="published", model="teacher")
        begun = time.monotonic()
        with Watch(Path(place)) as watch:
            info = distill(settings, reviews=source(count), ask=ask)
        print(f"{json.dumps(info['counts'])} in {time.monotonic() - begun:.0f} s")
        print(watch.flatness())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.2, help="seconds that the server takes")
    parser.add_argument("--stream", type=int, help="so many reviews without a server, for memory")
    given = parser.parse_args()
    if given.stream:
        without_server(given.stream)
    else:
        with_server(given.count, given.concurrency, given.delay)
