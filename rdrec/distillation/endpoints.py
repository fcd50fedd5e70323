"""One server: its address, what it takes beside the messages, and how many requests it gets at once.

    endpoint = Endpoint("http://127.0.0.1:8080", client, concurrency=64)
    await endpoint.acquire(); ...; endpoint.release()

A server that says 429 or 503, or fails several times in a row, gets no request until a pause is over, which grows from
wave to wave. The number of requests at once is the one that the user set. Only time-outs lower it, since requests that
wait too long in the server's queue are lost there: it is halved by each wave of them, and raised by one after as many
answers as it is high.
"""

import asyncio
import random
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from huggingface_hub import AsyncInferenceClient

from rdrec.errors import UserError


LONGEST_PAUSE = 30.0  # seconds between tries at a server that is down
DOWN_AFTER = 4  # failures in a row after which a server gets a pause

# What a request carries beside messages and sampling, and the words by which a server's refusal names it.
GUIDED, SEED = "guided decoding", "seed"
NAMES_OF_OPTION = {
    GUIDED: ("response_format", "schema", "grammar", "guided", "structured"),
    SEED: ("seed",),
}


class ServerError(UserError):
    """A server that cannot be reached, denies access, or does not take what it is asked."""


def backoff(tries: int) -> float:
    """Seconds to wait after so many failed tries: half a second, doubled with each, with jitter."""
    return min(LONGEST_PAUSE, 0.5 * 2 ** min(tries - 1, 10)) * random.uniform(0.5, 1.0)


def root_of(url: str) -> str:
    """A server's address without the path of its chat endpoint; UserError when it is none or holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--endpoint {parts._replace(netloc='').geturl()}: no URL; write http://HOST:PORT")
    if parts.username or parts.password or parts.query:
        raise UserError(
            f"--endpoint {parts.scheme}://{parts.hostname}: put no secret in the URL; set HF_TOKEN in the environment"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def guided_parameters(dialect: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `chat_completion` that make the answer match `schema`, in a server's dialect.

    `response_format` of type json_schema is avoided: huggingface_hub rewrites it to TGI's form for every URL.
    """
    if dialect == "tgi":
        return {"response_format": {"type": "json_object", "value": schema}}
    if dialect == "llamacpp":
        return {"response_format": {"type": "json_object", "schema": schema}}
    # vLLM named it guided_json up to 0.11 and structured_outputs since 0.11; each ignores the name it does not know.
    return {"extra_body": {"structured_outputs": {"json": schema}, "guided_json": schema}}


class Endpoint:
    """One server of a run.

    Parameters
    ----------
    url : str
    concurrency : int
        Requests at once, at most.
    timeout : float
        Seconds for one request.
    token : str, optional

    Attributes
    ----------
    root : str
        Its address.
    at_once : int
        Requests that it may get at once now.
    load : int
        Requests that are out or wait for their turn.
    paused_until : float
        No request before this moment of `time.monotonic`.
    dialect : str or None
        How guided decoding is asked for; None where it is not.
    taken, refused : set of str
        Options (`GUIDED`, `SEED`) with which it has answered, and without which it has to be asked.
    """

    def __init__(self, url: str, concurrency: int, timeout: float, token: str | None):
        self.root = root_of(url)
        self.client = AsyncInferenceClient(base_url=self.root, token=token, timeout=timeout)
        self.at_once = self._most = concurrency
        self.load = 0
        self.paused_until = 0.0
        self.dialect: str | None = None
        self.taken: set[str] = set()
        self.refused: set[str] = set()
        self._slots = asyncio.Semaphore(concurrency)
        self._surplus = 0  # slots to be withdrawn when they come back
        self._failures = 0  # since the last answer
        self._waves = 0  # pauses since the last answer
        self._answers = 0  # since the number of requests at once changed
        self._paused_at = self._lowered_at = 0.0

    async def acquire(self) -> None:
        """Wait for a slot. Each slot is held for one request, whose time is limited, so this ends."""
        self.load += 1
        try:
            await self._slots.acquire()
        except asyncio.CancelledError:
            self.load -= 1
            raise

    def release(self) -> None:
        self.load -= 1
        self._give_slot()

    def _give_slot(self) -> None:
        if self._surplus > 0:
            self._surplus -= 1
        else:
            self._slots.release()

    def answered(self) -> None:
        self._failures = self._waves = 0
        self._answers += 1
        if self._answers >= self.at_once < self._most:
            self._answers = 0
            self.at_once += 1
            self._give_slot()

    def failed(self, begun: float) -> None:
        """A request that began at `begun` failed. One says nothing about the server, several in a row do."""
        self._failures += 1
        if self._failures >= DOWN_AFTER:
            self.pause(begun)

    def pause(self, begun: float, asked: float | None = None) -> float:
        """Send nothing for the seconds that the server `asked` for, or for ever longer. Returns the pause's end."""
        now = time.monotonic()
        if asked is None and begun < self._paused_at:
            return self.paused_until  # it was out when the pause began, and belongs to the same wave
        self._waves += asked is None
        self._paused_at = now
        self.paused_until = max(self.paused_until, now + (backoff(self._waves) if asked is None else asked))
        return self.paused_until

    def timed_out(self, begun: float) -> bool:
        """Halve the requests at once, once a wave. Returns whether this is the first time."""
        if begun < self._lowered_at or self.at_once == 1:
            return False
        is_first = not self._lowered_at
        fewer = self.at_once // 2
        self._surplus += self.at_once - fewer
        self.at_once = fewer
        self._answers = 0
        self._lowered_at = time.monotonic()
        return is_first

    def untested(self) -> list[str]:
        """Options that it has neither taken nor refused yet."""
        known = self.taken | self.refused
        return [option for option in self.options() if option not in known]

    def options(self) -> list[str]:
        """Options that its requests carry."""
        possible = [GUIDED, SEED] if self.dialect else [SEED]
        return [option for option in possible if option not in self.refused]
