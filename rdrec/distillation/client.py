"""Client: asks one or several servers with an OpenAI-style chat endpoint, and waits and asks again where they fail.

    async with Pool(["http://127.0.0.1:8080"], prompt, ...) as pool:
        model = await pool.connect(None)
        answer = await pool.ask(prompt.messages(text), seed=1)

The token is read from HF_TOKEN and from nowhere else; it is sent to the endpoints and never written anywhere.
Guided decoding (the answer must match the prompt's JSON schema) is spoken in three dialects, found by asking the
server what it is; a server that refuses is asked plainly.
"""

import asyncio
import json
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import httpx2
from huggingface_hub import AsyncInferenceClient, set_async_client_factory
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

from rdrec.errors import DatasetError

from .limiter import Limiter
from .parse import MAX_ANSWER_CHARS
from .prompts import Prompt


GUIDED = ("auto", "off", "tgi", "vllm", "llamacpp")
CONNECT_SECONDS = 8.0  # for the first contact with a server
MAX_ATTEMPTS = 6  # for one review, at servers that answer others meanwhile
MAX_BODY = 16 * 2**20  # bytes of one HTTP answer
LONGEST_RETRY_AFTER = 3600.0


class Answer(NamedTuple):
    """What the teacher wrote. `flags`: not_utf8, too_long, rejected (refused for good; `text` says why)."""

    text: str
    finish: str
    tokens: int
    flags: tuple[str, ...] = ()


class ServerLost(DatasetError):
    """No server answered for so long that waiting on makes no sense."""


class GaveUp(Exception):
    """One review got no answer although others did."""


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


class _Endpoint:
    def __init__(self, url: str, concurrency: int, timeout: float, token: str | None):
        self.root = root_of(url)
        self.client = AsyncInferenceClient(base_url=self.root, token=token, timeout=timeout)
        self.limiter = Limiter(concurrency)
        self.dialect: str | None = None
        self.guided_works = False


def root_of(url: str) -> str:
    """A server's address without the path of its chat endpoint; DatasetError when it is none or holds a secret."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DatasetError(f"--endpoint {parts._replace(netloc='').geturl()}: no URL; write http://HOST:PORT")
    if parts.username or parts.password or parts.query:
        raise DatasetError(
            f"--endpoint {parts.scheme}://{parts.hostname}: put no secret in the URL; set HF_TOKEN in the environment"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class Pool:
    """The servers of one run.

    Parameters
    ----------
    urls : sequence of str
    prompt : Prompt
        Its schema guides decoding.
    temperature, top_p, max_tokens
        Sampling.
    concurrency : int
        Most requests in flight at each endpoint.
    guided : str
        One of `GUIDED`.
    timeout : float
        Seconds for one request.
    patience : float
        Seconds without one answer after which the run stops; pauses that a server asked for do not count.
    note : callable
        Gets a line for the user.

    Attributes
    ----------
    retries : int
        Requests that had to be made again.
    """

    def __init__(
        self,
        urls: Sequence[str],
        prompt: Prompt,
        *,
        temperature: float,
        top_p: float,
        max_tokens: int,
        concurrency: int,
        guided: str = "auto",
        timeout: float = 120.0,
        patience: float = 600.0,
        note: Callable[[str], None] = print,
    ):
        if guided not in GUIDED:
            raise DatasetError(f"--guided {guided}: unknown; choose one of {', '.join(GUIDED)}")
        if guided not in ("auto", "off") and prompt.schema is None:
            raise DatasetError(
                f"--guided {guided}: prompt {prompt.name!r} is answered in sentences; only a prompt with a schema "
                "(grounded) can be guided"
            )
        self._token = os.environ.get("HF_TOKEN") or None
        self._guided = guided if prompt.schema is not None else "off"
        self._schema = prompt.schema
        self._prompt_name = prompt.name
        self._sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        self._timeout = timeout
        self._patience = patience
        self._note = note
        self._model = ""
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._last_answer = time.monotonic()
        self._excused_until = 0.0  # end of the last pause that a server asked for
        self.retries = 0
        set_async_client_factory(self._new_http_client)
        self._endpoints = [_Endpoint(url, concurrency, timeout, self._token) for url in urls]
        self.concurrency = concurrency * len(self._endpoints)

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *exception: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.client.close()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return sum(endpoint.limiter.limit for endpoint in self._endpoints)

    def _new_http_client(self) -> httpx2.AsyncClient:
        # The default keeps 20 connections open and opens 100 at most; ours follow the limiter alone.
        return httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            follow_redirects=True,
            event_hooks={"request": [self._only_our_token], "response": [_bound_body]},
            timeout=self._timeout,
        )

    async def _only_our_token(self, request: httpx2.Request) -> None:
        # Without a token of ours huggingface_hub sends the one saved on this machine, which is not for this server.
        if self._token is None:
            request.headers.pop("authorization", None)

    async def connect(self, model: str | None) -> str:
        """First contact: who is there, which model, which dialect. Returns the model's name.

        Raises
        ------
        DatasetError
            No server can be reached within CONNECT_SECONDS, a token is refused, or the servers' models differ.
        """
        found = await asyncio.gather(*(self._probe(endpoint) for endpoint in self._endpoints))
        reached = [one for one in found if not isinstance(one, DatasetError)]
        for endpoint, one in zip(self._endpoints, found, strict=True):
            if isinstance(one, DatasetError):
                if not reached:
                    raise one
                self._note(f"{one}; going on with the other endpoints")
            elif self._guided != "off":
                endpoint.dialect = one[1] if self._guided == "auto" else self._guided
        if model is None:
            names = sorted({one[0] for one in reached if one[0]})
            if len(names) != 1:
                said = f"serve different models ({', '.join(names)})" if names else "do not name their model"
                raise DatasetError(f"the endpoints {said}; say which one with --model")
            model = names[0]
        self._model = model
        self._last_answer = time.monotonic()
        return model

    async def _probe(self, endpoint: _Endpoint) -> tuple[str | None, str | None] | DatasetError:
        """(model, dialect) of a server, or why it cannot be reached."""
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._new_http_client() as http:
                response = await http.get(f"{endpoint.root}/v1/models", headers=headers)
                if response.status_code in (401, 403):
                    return DatasetError(_denied(endpoint.root, response.status_code))
                entry = _first_model(response)
                info = await http.get(f"{endpoint.root}/info", headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            reason = " ".join(str(error).split()) or f"no answer within {CONNECT_SECONDS:.0f} s"
            return DatasetError(f"{endpoint.root}: cannot be reached ({reason}); start the server or check --endpoint")
        told = _json_of(info) if info.status_code == 200 else None
        is_tgi = isinstance(told, dict) and "model_id" in told
        owner = str(entry.get("owned_by", ""))
        dialect = "tgi" if is_tgi else {"vllm": "vllm", "llamacpp": "llamacpp", "me": "llamacpp"}.get(owner)
        name = entry.get("id") or (told["model_id"] if is_tgi else None)
        return (str(name) if name else None), dialect

    async def ask(self, messages: list[dict[str, str]], seed: int, temperature: float | None = None) -> Answer:
        """Ask until there is an answer; `temperature` only where it differs from the settings'.

        Raises
        ------
        ServerLost
            No server answered anything for `patience` seconds.
        GaveUp
            This one question failed MAX_ATTEMPTS times while others were answered.
        DatasetError
            The server denies access or has no such model or path.
        """
        attempts = 0
        first_failure = None
        unguided: str | None = None  # why this question is asked plainly where others are guided
        while True:
            endpoint = await self._slot()
            begun = time.monotonic()
            guided = endpoint.dialect is not None and unguided is None
            try:
                async with asyncio.timeout(self._timeout):
                    answer = await self._request(endpoint, messages, seed, temperature, guided)
            except asyncio.CancelledError:
                endpoint.limiter.in_flight -= 1
                raise
            except HfHubHTTPError as error:
                status = error.response.status_code
                reason = _reason(error)
                if status in (429, 503):
                    asked = _retry_after(error.response.headers.get("retry-after"))
                    pause = endpoint.limiter.pushed_back(asked)
                    if asked is not None:
                        self._excused_until = max(self._excused_until, time.monotonic() + pause)
                    self._check_patience(endpoint, reason)
                    self.retries += 1
                    continue
                if status in (401, 403):
                    raise DatasetError(_denied(endpoint.root, status)) from None
                if status in (402, 404, 405, 410):
                    raise DatasetError(
                        f"{endpoint.root}: no chat endpoint or no model {self._model!r} there ({reason}); "
                        "check --endpoint and --model"
                    ) from None
                refused = status in (400, 422, 501) or (status == 500 and attempts >= 2)
                if guided and not endpoint.guided_works and refused:
                    # The schema or the review? Asked plainly, the server tells.
                    unguided = reason
                    endpoint.limiter.answered(time.monotonic() - begun)
                    continue
                if status in (400, 413, 422):
                    self._last_answer = time.monotonic()
                    endpoint.limiter.answered(self._last_answer - begun)
                    self._wake()
                    return Answer(reason, "error", 0, ("rejected",))
                endpoint.limiter.failed()
            except (TimeoutError, InferenceTimeoutError):
                reason = f"no answer within {self._timeout:g} s"
                endpoint.limiter.timed_out()
            except (httpx2.HTTPError, httpx2.StreamError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                endpoint.limiter.failed()
                was_cut = isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError)
                if guided and was_cut and await self._schema_killed():
                    raise DatasetError(
                        f"the server at {endpoint.root} stopped answering while given the JSON schema of prompt "
                        f"{self._prompt_name!r} (it may not hold its grammar): start it again and use --guided off, "
                        "with another --output"
                    ) from None
            except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
                # A body that is no chat completion: garbage, cut JSON, other fields.
                reason = f"not a chat completion: {' '.join(str(error).split())[:100]}"
                endpoint.limiter.failed()
            else:
                now = time.monotonic()
                endpoint.limiter.answered(now - begun)
                endpoint.guided_works = endpoint.guided_works or guided
                if unguided and endpoint.dialect and not endpoint.guided_works:
                    self._note(f"{endpoint.root}: refuses guided decoding ({unguided}); asking plainly")
                    endpoint.dialect = None
                self._last_answer = now
                self._wake()
                return answer
            self.retries += 1
            attempts += 1
            first_failure = first_failure or time.monotonic()
            self._check_patience(endpoint, reason)
            self._wake()
            if attempts >= MAX_ATTEMPTS:
                if self._last_answer < first_failure:
                    await self._greet(endpoint)  # nobody else asks: is it the server or the review?
                if self._last_answer > first_failure:
                    raise GaveUp(reason)
            await asyncio.sleep(min(30.0, 0.5 * 2 ** min(attempts - 1, 10)) * random.uniform(0.5, 1.0))

    async def _schema_killed(self) -> bool:
        """Whether no server accepts connections any more, before any has answered under the schema."""
        if any(endpoint.guided_works for endpoint in self._endpoints):
            return False
        for endpoint in self._endpoints:
            try:
                async with asyncio.timeout(CONNECT_SECONDS), self._new_http_client() as http:
                    await http.get(f"{endpoint.root}/v1/models")
                return False
            except httpx2.ConnectError:
                pass
            except (httpx2.HTTPError, TimeoutError):
                return False
        return True

    async def _greet(self, endpoint: _Endpoint) -> None:
        """Note an answer if the server has one to the simplest question."""
        message = [{"role": "user", "content": "Say yes."}]
        try:
            async with asyncio.timeout(self._timeout):
                await endpoint.client.chat_completion(message, model=self._model, max_tokens=8)
        except (HfHubHTTPError, InferenceTimeoutError, TimeoutError, httpx2.HTTPError, ValueError):
            return
        self._last_answer = time.monotonic()

    async def _request(
        self, endpoint: _Endpoint, messages: list[dict[str, str]], seed: int, temperature: float | None, guided: bool
    ) -> Answer:
        sampling = self._sampling if temperature is None else self._sampling | {"temperature": temperature}
        form = guided_parameters(endpoint.dialect, self._schema) if guided and endpoint.dialect and self._schema else {}
        flags: set[str] = set()
        try:
            made: Any = await endpoint.client.chat_completion(
                messages, model=self._model, seed=seed, **sampling, **form
            )
        except UnicodeDecodeError as error:
            made = json.loads(error.object.decode("utf-8", errors="replace"))
            flags.add("not_utf8")
        choice = made["choices"][0]
        text = choice["message"].get("content") or ""
        if not isinstance(text, str):
            raise TypeError("the content is no text")
        if len(text) > MAX_ANSWER_CHARS:
            flags.add("too_long")
            text = text[:MAX_ANSWER_CHARS]
        # A lone surrogate ("\ud83d" of a cut emoji) is legal in JSON and cannot be written as UTF-8.
        sound = text.encode("utf-8", errors="replace").decode("utf-8")
        if sound != text:
            flags.add("not_utf8")
        usage = made.get("usage") or {}
        tokens = usage.get("completion_tokens")
        finish = choice.get("finish_reason")
        return Answer(
            sound,
            finish if isinstance(finish, str) else "",
            tokens if isinstance(tokens, int) else 0,
            tuple(sorted(flags)),
        )

    async def _slot(self) -> _Endpoint:
        """Wait for an endpoint that may get a request, the least busy one, and book it."""
        while True:
            free = [endpoint for endpoint in self._endpoints if endpoint.limiter.free()]
            if free:
                chosen = min(free, key=lambda e: (e.limiter.in_flight / e.limiter.limit, random.random()))
                chosen.limiter.begin()
                return chosen
            now = time.monotonic()
            pauses = [e.limiter.paused_until - now for e in self._endpoints if e.limiter.paused_until > now]
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(min(pauses) + 0.001 if pauses else None):
                    await waiter
            except TimeoutError:
                pass
            finally:
                if not waiter.done() or waiter.cancelled():
                    self._waiters = deque(one for one in self._waiters if one is not waiter)

    def _wake(self) -> None:
        free = sum(endpoint.limiter.free() for endpoint in self._endpoints)
        while free > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def _check_patience(self, endpoint: _Endpoint, reason: str) -> None:
        silent = time.monotonic() - max(self._last_answer, self._excused_until)
        if silent > self._patience:
            raise ServerLost(f"{endpoint.root}: no answer for {silent:.0f} s ({reason})")


def teacher_name(model: str) -> str:
    """A model's name as provenance: of a path on the server's disk only the file's name."""
    if PurePosixPath(model).is_absolute() or PureWindowsPath(model).is_absolute():
        return PureWindowsPath(model).name
    return model


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream):
        self._stream = stream

    async def __aiter__(self):
        size = 0
        async for part in self._stream:
            size += len(part)
            if size > MAX_BODY:
                raise httpx2.ReadError(f"an answer of more than {MAX_BODY >> 20} MB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_body(response: httpx2.Response) -> None:
    response.stream = _Bounded(response.stream)  # a server gone mad must not fill our memory


def _json_of(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _first_model(response: httpx2.Response) -> dict[str, Any]:
    made = _json_of(response) if response.status_code == 200 else None
    data = made.get("data") if isinstance(made, dict) else None
    return data[0] if isinstance(data, list) and data and isinstance(data[0], dict) else {}


def _reason(error: HfHubHTTPError) -> str:
    """Status and the server's own words, in one short line."""
    said = _json_of(error.response)
    for key in ("error", "message", "detail"):
        said = said[key] if isinstance(said, dict) and key in said else said
    words = said if isinstance(said, str) else error.response.text
    return f"HTTP {error.response.status_code} {' '.join(words.split())[:200]}".strip()


def _denied(root: str, status: int) -> str:
    return f"{root}: HTTP {status}, access denied; set HF_TOKEN in the environment to a token the server takes"


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header (seconds or an HTTP date) asks for."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(LONGEST_RETRY_AFTER, max(0.0, seconds)) if seconds == seconds else None
