"""How the Space answers many visitors at once: sessions that do what the page does, over HTTP on 127.0.0.1.

    make space                                                       # in another terminal
    python -m benchmarks.space --url http://127.0.0.1:7860 --sessions 20 --seconds 60

Each session goes on as a visitor does, without a pause: it loads the page, searches an item, asks for recommendations
after the history so far, for the reasons of all eight, and for the what-ifs of one of them, then adds an item. Sessions
without pauses ask far more than visitors do. Milliseconds are from the click to the whole answer, its turn in the queue
included. A session that gets an error ends the measurement.
"""

import argparse
import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from rdrec.durable import write_json
from rdrec.errors import UserError, exit_code


LONGEST = 8  # items of a session's history, then it begins anew


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="where the page is")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    arguments = parser.parse_args()
    try:
        times = asyncio.run(measure(arguments.url.rstrip("/"), arguments.sessions, arguments.seconds, arguments.seed))
    except httpx2.ConnectError as error:
        raise UserError(f"--url {arguments.url}: nobody answers: start `make space` first") from error
    figures: dict[str, Any] = {"sessions": arguments.sessions, "seconds": arguments.seconds, "errors": 0}
    for name, seconds in times.items():
        p50, p95 = np.percentile(seconds, [50, 95]) * 1000
        figures[name] = {"answers": len(seconds), "ms_p50": round(p50), "ms_p95": round(p95)}
    print(json.dumps(figures))
    if arguments.output:
        write_json(arguments.output, figures)


async def measure(url: str, sessions: int, seconds: float, seed: int) -> dict[str, list[float]]:
    """Seconds of each answer, by what was asked."""
    times: dict[str, list[float]] = {name: [] for name in ("page", "search", "recommend", "explain", "without")}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(timeout=120, limits=limits, trust_env=False) as client:
        await ask(client, url, "recommend", history=[])  # warm-up
        end = time.monotonic() + seconds
        visitors = (_visitor(client, url, random.Random(f"{seed} {number}"), end, times) for number in range(sessions))
        await asyncio.gather(*visitors)
    return times


async def _visitor(client, url: str, chance: random.Random, end: float, times: dict[str, list[float]]) -> None:
    async def timed(name: str, answer):
        begun = time.monotonic()
        made = await answer
        times[name].append(time.monotonic() - begun)
        return made

    history: list[str] = []
    await timed("page", client.get(url))
    while time.monotonic() < end:
        words = chance.choice("abcdefghijklmnoprstuw")
        found = (await timed("search", ask(client, url, "search", words=words)))["found"]
        history = [*history[: LONGEST - 1], chance.choice(found)["id"]] if found else history
        answer = await timed("recommend", ask(client, url, "recommend", history=history))
        items = [one["id"] for one in answer["items"]]
        if set(items) & set(history) or len(items) != len(set(items)):
            raise ValueError(f"after {history} {items} were recommended")
        told = await timed("explain", ask(client, url, "explain", items=items, history=history))
        if [one["id"] for one in told] != items:
            raise ValueError(f"reasons of {items} were asked for")
        item = chance.choice(items)
        ifs = await timed("without", ask(client, url, "without", item=item, history=history))
        if len(ifs) != len(history):
            raise ValueError(f"{len(ifs)} what-ifs for a history of {len(history)}")
        history = [] if len(history) == LONGEST else [*history, item][:LONGEST]


async def ask(client: httpx2.AsyncClient, url: str, name: str, **given) -> Any:
    """What the API answers, asked as the page asks."""
    joined = await client.post(f"{url}/gradio_api/call/v2/{name}", json=given)
    joined.raise_for_status()
    text = (await client.get(f"{url}/gradio_api/call/v2/{name}/{joined.json()['event_id']}")).text
    event, _, data = text.partition("\ndata: ")
    if not event.endswith("event: complete"):
        raise ValueError(f"{name} was answered {text!r}")
    return json.loads(data.strip())[0]


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
