"""A chat server on 127.0.0.1 that does what a test tells it to, good or bad. Lives in a thread, ends with its `with`.

with Loopback(lambda question: Reply(chat("1. …\n2. …"))) as server:
    server.url, server.asked

python -m tests.fakes.loopback PORT SECONDS     # a process of its own that answers after so long, for benchmarks
"""

import asyncio
import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What comes back: after `delay` seconds, `status` and `body`; `cut` closes the connection after so many bytes."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None
    drip: float = 0.0  # seconds between bytes


@dataclass
class Question:
    """One POST. `text` is the review it asks about, `times` how often that review was asked, this time included."""

    payload: dict
    headers: dict[str, str]
    text: str
    times: int
    number: int
    at: float


def sentences(text: str) -> str:
    """A well-formed answer that depends on the review alone."""
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"1. The user prefers things of kind {mark}.\n2. The item is of kind {mark}."


def chat(content, finish="stop", tokens=20) -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps({"id": "1", "choices": choices, "usage": {"completion_tokens": tokens}}).encode()


def good(question: Question) -> Reply:
    return Reply(chat(sentences(question.text)))


class Loopback:
    """The server. `gets` maps paths to (status, object) of GET requests; `asked` keeps every Question."""

    def __init__(self, behave: Callable[[Question], Reply] = good, gets: dict | None = None, port: int = 0):
        self.behave = behave
        self.gets = {"/v1/models": (200, {"data": [{"id": "teacher"}]})} if gets is None else gets
        self.asked: list[Question] = []
        self.keep = True
        self._times: dict[str, int] = {}
        self._socket = socket.create_server(("127.0.0.1", port), backlog=512)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> "Loopback":
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection, as a server that dies does."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    def _serve(self, started) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self.serve(started.set))
        self._loop.close()

    async def serve(self, started=lambda: None) -> None:
        self._over = asyncio.Event()
        self._open: set[asyncio.Task] = set()
        server = await asyncio.start_server(self._connection, sock=self._socket, limit=2**20)
        started()
        await self._over.wait()
        server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(asyncio.current_task())
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if method == "GET":
                    status, made = self.gets.get(path, (404, {}))
                    reply = Reply(json.dumps(made).encode(), status)
                else:
                    reply = self.behave(self._question(json.loads(body), headers))
                if not await self._send(writer, reply):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(asyncio.current_task())
            writer.transport.abort()

    def _question(self, payload: dict, headers: dict[str, str]) -> Question:
        found = re.findall(r"<review>(.*?)</review>", payload["messages"][-1]["content"], re.DOTALL)
        text = found[-1] if found else ""
        self._times[text] = self._times.get(text, 0) + 1
        question = Question(payload, headers, text, self._times[text], len(self.asked) + 1, time.monotonic())
        if self.keep:
            self.asked.append(question)
        return question

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        head = {"content-type": "application/json", "content-length": str(len(reply.body)), **reply.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        data = f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode() + reply.body
        if reply.cut is not None:
            writer.write(data[: reply.cut])
            await writer.drain()
            return False
        if reply.drip:
            for place in range(len(data)):
                writer.write(data[place : place + 1])
                await asyncio.sleep(reply.drip)
        else:
            writer.write(data)
            await writer.drain()
        return True


if __name__ == "__main__":
    seconds = float(sys.argv[2])
    lone = Loopback(lambda question: Reply(chat(sentences(question.text)), delay=seconds), port=int(sys.argv[1]))
    lone.keep = False
    asyncio.run(lone.serve())
