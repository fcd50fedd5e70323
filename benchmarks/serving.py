"""How a model repo's `handler.py` answers many clients at once, over HTTP on 127.0.0.1.

    python -m benchmarks.serving --model runs/beauty --dataset data/beauty --clients 50 --requests 2000 --threads 1

The server is a process of its own and does what Hugging Face's inference toolkit does (`tests/fakes/`): it answers
one request at a time. Each client asks for the ten next items after the history of another user, as soon as its last
answer is there, so `--clients` requests are always waiting, and a request's milliseconds are mostly those of its turn.
Loading and warm-up are not timed. Every answer is checked: status 200 and ten items that the history does not hold.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np

from rdrec.durable import write_json
from rdrec.errors import UserError, exit_code
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData
from tests.fakes.inference_toolkit import stage_repo


WARM_UP, K = 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="checkpoint: folder")
    parser.add_argument("--dataset", required=True, help="the dataset it was trained on: folder or Hub id")
    parser.add_argument("--clients", type=int, default=50, help="clients that ask at the same time")
    parser.add_argument("--requests", type=int, default=2000, help="requests of all clients together")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of the server")
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    arguments = parser.parse_args()
    if not arguments.model.is_dir():
        raise UserError(f"--model {arguments.model}: no such folder")
    questions = _questions(TaskData(load_tables_of(arguments.dataset)), arguments.requests)
    with tempfile.TemporaryDirectory(prefix="rdrec-serving-") as work:
        folder = stage_repo(arguments.model, Path(work) / "repo")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.inference_toolkit", str(folder), str(port)],
            env=os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "false"},
        )
        try:
            times = asyncio.run(_measure(f"http://127.0.0.1:{port}", server, questions, arguments.clients))
        finally:
            server.terminate()
            server.wait()
    figures = {
        "model": str(arguments.model),
        "dataset": arguments.dataset,
        "clients": arguments.clients,
        "threads": arguments.threads,
        "requests": len(questions),
        **times,
    }
    print(json.dumps(figures))
    if arguments.output:
        write_json(arguments.output, figures)


def _questions(data: TaskData, count: int) -> list[dict]:
    """Bodies of requests: the histories of users spread evenly over the dataset."""
    raw_ids, users = data.raw_ids["item"], len(data.sequences)
    rows = np.arange(count) * max(1, users // count) % users
    histories = [[raw_ids[item - 1] for item in data.sequences[row]] for row in rows]
    return [
        {"inputs": {"history": history, "user": data.raw_ids["user"][row]}, "parameters": {"k": K}}
        for row, history in zip(rows, histories)
    ]


async def _measure(url: str, server: subprocess.Popen, questions: list[dict], clients: int) -> dict[str, float]:
    # The loopback is asked directly, whatever proxy the environment names.
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx2.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client:
        while True:
            try:
                await client.get("/health")
                break
            except httpx2.ConnectError:
                if server.poll() is not None:
                    raise UserError("the server ended before it answered: see its words above") from None
                await asyncio.sleep(0.1)
        seconds, lost = [], []
        waiting = iter(questions)

        async def ask(question: dict) -> str | None:
            """What is wrong with the answer to a question."""
            try:
                reply = await client.post("/", json=question)
            except httpx2.HTTPError as error:
                return repr(error)
            if reply.status_code != 200:
                return reply.text
            items = {row["item"] for row in reply.json()}
            right = len(items) == K and not items & set(question["inputs"]["history"])
            return None if right else f"not {K} new items: {sorted(items)}"

        async def one_client() -> None:
            for question in waiting:  # the clients share the list
                began = time.perf_counter()
                wrong = await ask(question)
                seconds.append(time.perf_counter() - began)
                if wrong:
                    lost.append(wrong)

        for question in questions[:WARM_UP]:
            await ask(question)
        began = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        took = time.perf_counter() - began
    if lost:
        raise UserError(f"{len(lost)} of {len(seconds)} requests were lost, the first of them: {lost[0]}")
    p50, p95 = np.percentile(seconds, [50, 95]) * 1000
    return {
        "requests_per_second": round(len(seconds) / took, 1),
        "ms_p50": round(p50, 1),
        "ms_p95": round(p95, 1),
        "lost": len(lost),
    }


if __name__ == "__main__":
    sys.exit(exit_code(main))
