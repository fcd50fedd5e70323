"""Client: asks one or several servers with an OpenAI-style chat endpoint, and waits and asks again where they fail.

    async with Pool(["http://127.0.0.1:8080"], prompt, ...) as pool:
        model = await pool.connect(None)
        completion = await pool.ask(prompt.messages(text), seed=1)

The token is read from HF_TOKEN and from nowhere else; it is sent to the endpoints and never written anywhere.
Guided decoding (the answer must match the prompt's JSON schema) is spoken in three dialects, found by asking the
server what it is. A server that refuses it, or the seed, is asked without.

A request ends in one of four ways: a completion, a failure (asked again after a pause, MAX_ATTEMPTS times), a server
that is busy (asked again for as long as it answers anything), or a refusal (the question gets an empty answer).
"""

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import httpx2
from huggingface_hub import set_async_client_factory
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError

from rdrec.errors import UserError

from .endpoints import GUIDED, NAMES_OF_OPTION, SEED, Endpoint, ServerError, backoff, guided_parameters
from .prompts import Prompt
from .responses import (
    LONGEST_RETRY_AFTER,
    Completion,
    Failure,
    bound_body,
    completion_in,
    json_of,
    model_entries,
    raise_error_in,
    reason_of,
    retry_after_of,
)


DIALECTS = ("auto", "off", "tgi", "vllm", "llamacpp")
CONNECT_SECONDS = 8.0  # for the first contact with a server
MAX_ATTEMPTS = 6  # for one question, at servers that answer others meanwhile


class ServerLost(ServerError):
    """No server answered for so long that waiting on makes no sense."""


class GaveUp(Exception):
    """One question got no answer although the server is there."""


@dataclass
class _Question:
    """One question on its way, and what became of the requests made for it."""

    messages: list[dict[str, str]]
    seed: int
    temperature: float | None
    attempts: int = 0
    first_failure: float | None = None
    server_spoke: bool = False  # an error in the form of an answer: the server is there
    left_out: dict[str, str] = field(default_factory=dict)  # option -> why it is tried without
    trials: list[set[str]] = field(default_factory=list)


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
        Requests at once at each endpoint.
    guided : str
        One of `DIALECTS`.
    timeout : float
        Seconds for one request.
    patience : float
        Seconds without one answer after which the run stops. Pauses that a server asks for do not count, up to
        LONGEST_RETRY_AFTER.
    note : callable
        Gets a line for the user.

    Attributes
    ----------
    retries : int
        Requests that had to be made again.

    Raises
    ------
    UserError
        For a URL that is none, or a choice of `guided` that the prompt does not allow.
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
        if guided not in DIALECTS:
            raise UserError(f"--guided {guided}: unknown; choose one of {', '.join(DIALECTS)}")
        if guided not in ("auto", "off") and prompt.schema is None:
            raise UserError(
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
        self._out = 0  # questions without an answer yet
        self._last_answer = time.monotonic()
        self._last_failure = "no answer yet"
        self._excused_until = 0.0  # end of the last pause that a server asked for
        self.retries = 0
        set_async_client_factory(self._new_http_client)
        self._endpoints = [Endpoint(url, concurrency, timeout, self._token) for url in urls]
        self.concurrency = concurrency * len(self._endpoints)

    async def __aenter__(self) -> "Pool":
        return self

    async def __aexit__(self, *exception: object) -> None:
        for endpoint in self._endpoints:
            await endpoint.client.close()

    @property
    def at_once(self) -> int:
        """Requests that may be out now."""
        return sum(endpoint.at_once for endpoint in self._endpoints)

    def _new_http_client(self) -> httpx2.AsyncClient:
        # The default keeps 20 connections open and opens 100 at most; here `concurrency` alone limits them.
        return httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            follow_redirects=True,
            event_hooks={"request": [self._only_our_token], "response": [bound_body]},
            timeout=self._timeout,
        )

    async def _only_our_token(self, request: httpx2.Request) -> None:
        # Without a token of ours huggingface_hub sends the one saved on this machine, which is not for this server.
        if self._token is None:
            request.headers.pop("authorization", None)

    # ---- first contact ----

    async def connect(self, model: str | None) -> str:
        """First contact: who is there, which model, which dialect. Returns the model's name.

        Raises
        ------
        ServerError
            No server can be reached within CONNECT_SECONDS, a token is refused, or the servers' models differ.
        """
        found = await asyncio.gather(*(self._probe(endpoint) for endpoint in self._endpoints))
        reached = [one for one in found if not isinstance(one, ServerError)]
        for endpoint, one in zip(self._endpoints, found, strict=True):
            if isinstance(one, ServerError):
                if not reached:
                    raise one
                self._note(f"{one}; going on with the other endpoints")
                continue
            models, dialect = one
            if self._guided != "off":
                endpoint.dialect = dialect if self._guided == "auto" else self._guided
            if model is None and len(models) > 1:
                self._note(
                    f"{endpoint.root}: serves {len(models)} models ({', '.join(models)}); asking {models[0]}, "
                    "--model chooses another"
                )
        self._model = model or _common_model([models for models, _ in reached])
        return self._model

    async def _probe(self, endpoint: Endpoint) -> tuple[list[str], str | None] | ServerError:
        """(models, dialect) of a server, or why it cannot be reached."""
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._new_http_client() as http:
                response = await http.get(f"{endpoint.root}/v1/models", headers=headers)
                if response.status_code in (401, 403):
                    return ServerError(_denied(endpoint.root, response.status_code))
                entries = model_entries(response)
                info = await http.get(f"{endpoint.root}/info", headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            reason = " ".join(str(error).split()) or f"no answer within {CONNECT_SECONDS:.0f} s"
            return ServerError(f"{endpoint.root}: cannot be reached ({reason}); start the server or check --endpoint")
        told = json_of(info) if info.status_code == 200 else None
        is_tgi = isinstance(told, dict) and "model_id" in told
        owner = str(entries[0].get("owned_by", "")) if entries else ""
        dialect = "tgi" if is_tgi else {"vllm": "vllm", "llamacpp": "llamacpp", "me": "llamacpp"}.get(owner)
        names = [str(entry["id"]) for entry in entries if entry.get("id")]
        return names or ([str(told["model_id"])] if is_tgi else []), dialect

    # ---- asking ----

    async def ask(self, messages: list[dict[str, str]], seed: int, temperature: float | None = None) -> Completion:
        """Ask until there is an answer; `temperature` only where it differs from the settings'.

        Raises
        ------
        ServerLost
            No server answered anything for `patience` seconds.
        GaveUp
            This one question failed MAX_ATTEMPTS times at a server that is there.
        ServerError
            The server denies access or has no such model or path.
        """
        question = _Question(messages, seed, temperature)
        if not self._out:
            self._last_answer = time.monotonic()  # while nothing was asked, nobody was silent
        self._out += 1
        try:
            while True:
                endpoint = await self._free_endpoint()
                begun = time.monotonic()
                try:
                    completion = await self._request(endpoint, question)
                except Failure as failure:
                    endpoint.release()
                    self._last_failure = f"{endpoint.root} ({failure.reason})"
                    if self._is_rejected(endpoint, question, failure):
                        return Completion(failure.reason, "error", 0, ("rejected",))
                    if failure.kind != "refused":  # else it is asked again at once, without an option
                        await self._wait_after(failure, endpoint, question, begun)
                except BaseException:
                    endpoint.release()
                    raise
                else:
                    endpoint.release()
                    self._tell_left_out(endpoint, question)
                    self._heard(endpoint)
                    return completion
        finally:
            self._out -= 1

    async def _free_endpoint(self) -> Endpoint:
        """A slot at the least busy server that is not paused; nobody has to be woken for it."""
        while True:
            now = time.monotonic()
            ready = [endpoint for endpoint in self._endpoints if endpoint.paused_until <= now]
            if not ready:
                self._check_patience()
                rest = min(endpoint.paused_until for endpoint in self._endpoints) - now
                await asyncio.sleep(min(rest, 1.0) * random.uniform(1.0, 1.1))
                continue
            endpoint = min(ready, key=lambda one: (one.load / one.at_once, random.random()))
            await endpoint.acquire()
            if endpoint.paused_until <= time.monotonic():
                return endpoint
            endpoint.release()

    def _heard(self, endpoint: Endpoint) -> None:
        self._last_answer = time.monotonic()
        endpoint.answered()

    def _check_patience(self) -> None:
        excused = min(self._excused_until, self._last_answer + LONGEST_RETRY_AFTER)
        silent = time.monotonic() - max(self._last_answer, excused)
        if silent > self._patience:
            where, _, reason = self._last_failure.partition(" ")
            raise ServerLost(f"{where}: no answer for {silent:.0f} s {reason}")

    async def _wait_after(self, failure: Failure, endpoint: Endpoint, question: _Question, begun: float) -> None:
        """Wait as long as the failure suggests, or give the question or the server up."""
        self.retries += 1
        if failure.kind == "busy":
            end = endpoint.pause(begun, failure.retry_after)
            if failure.retry_after is not None:
                self._excused_until = max(self._excused_until, end)
            self._check_patience()
            return
        if failure.kind == "timeout" and endpoint.timed_out(begun):
            self._note(
                f"{endpoint.root}: {failure.reason}; asking fewer at once, {endpoint.at_once} for now "
                "(--concurrency, --timeout)"
            )
        endpoint.failed(begun)
        self._check_patience()
        question.attempts += 1
        question.first_failure = question.first_failure or time.monotonic()
        if question.attempts >= MAX_ATTEMPTS:
            if not question.server_spoke and self._last_answer < question.first_failure:
                await self._greet(endpoint)  # nobody else asks: is it the server or the question?
            if question.server_spoke or self._last_answer > question.first_failure:
                raise GaveUp(failure.reason)
        await asyncio.sleep(backoff(question.attempts))

    async def _greet(self, endpoint: Endpoint) -> None:
        """Note an answer if the server has one to the simplest question."""
        message = [{"role": "user", "content": "Say yes."}]
        try:
            async with asyncio.timeout(self._timeout):
                made = await endpoint.client.chat_completion(message, model=self._model, max_tokens=8)
            is_answer = bool(made["choices"])
        except (HfHubHTTPError, InferenceTimeoutError, TimeoutError, httpx2.HTTPError):
            return
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
            return
        if is_answer:
            self._last_answer = time.monotonic()

    # ---- refusals ----

    def _is_rejected(self, endpoint: Endpoint, question: _Question, failure: Failure) -> bool:
        """Whether the server refuses this question for good. If an option may be the reason, the next try omits it."""
        refused = failure.kind == "refused"
        # Some servers answer a schema that they cannot hold with a 500.
        if refused or (failure.status == 500 and question.attempts >= 2 and GUIDED in endpoint.untested()):
            if self._omit_an_option(endpoint, question, failure):
                failure.kind = "refused"
                endpoint.answered()
                return False
        if refused and failure.status != 501:
            self._heard(endpoint)
            return True
        if refused:
            failure.kind = "failed"
        return False

    def _omit_an_option(self, endpoint: Endpoint, question: _Question, failure: Failure) -> bool:
        """Choose what the next try leaves out: what the server names, else one untested option, else all of them."""
        untested = endpoint.untested()
        words = failure.reason.lower()
        named = [option for option in untested if any(name in words for name in NAMES_OF_OPTION[option])]
        if failure.status == 500:
            untested = named = [GUIDED]
        for trial in [*({option} for option in named), *({option} for option in untested), set(untested)]:
            if trial and trial not in question.trials:
                question.trials.append(trial)
                question.left_out = dict.fromkeys(sorted(trial), failure.reason)
                return True
        return False

    def _tell_left_out(self, endpoint: Endpoint, question: _Question) -> None:
        """An answer came: remember which options the server takes, and say once which it refuses."""
        for option in endpoint.options():
            if option not in question.left_out:
                endpoint.taken.add(option)
            elif option not in endpoint.taken:
                endpoint.refused.add(option)
                plainly = "asking plainly" if option == GUIDED else "asking without"
                self._note(f"{endpoint.root}: refuses {option} ({question.left_out[option]}); {plainly}")

    # ---- one request ----

    async def _request(self, endpoint: Endpoint, question: _Question) -> Completion:
        """One request; Failure where there is no completion, ServerError where none will ever be."""
        options = [option for option in endpoint.options() if option not in question.left_out]
        try:
            async with asyncio.timeout(self._timeout):
                return await self._complete(endpoint, question, options)
        except Failure as failure:
            question.server_spoke = True
            raise self._http_failure(endpoint, failure.status, failure.reason) from None
        except HfHubHTTPError as error:
            response = error.response
            retry_after = retry_after_of(response.headers.get("retry-after"))
            raise self._http_failure(endpoint, response.status_code, reason_of(error), retry_after) from None
        except (TimeoutError, InferenceTimeoutError):
            raise Failure("timeout", f"no answer within {self._timeout:g} s") from None
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            was_cut = isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError)
            if GUIDED in options and was_cut and await self._schema_killed():
                raise ServerError(
                    f"the server at {endpoint.root} stopped answering while given the JSON schema of prompt "
                    f"{self._prompt_name!r} (it may not hold its grammar): start it again and use --guided off, "
                    "with another --output"
                ) from None
            raise Failure("failed", reason) from None
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            # A body that is no chat completion: garbage, cut JSON, other fields.
            said = " ".join(str(error).split())[:100]
            raise Failure("failed", f"not a chat completion: {said}") from None

    def _http_failure(
        self, endpoint: Endpoint, status: int, reason: str, retry_after: float | None = None
    ) -> Failure | ServerError:
        if status in (401, 403):
            return ServerError(_denied(endpoint.root, status))
        if status in (402, 404, 405, 410):
            return ServerError(
                f"{endpoint.root}: no chat endpoint or no model {self._model!r} there ({reason}); "
                "check --endpoint and --model"
            )
        if status in (429, 503):
            return Failure("busy", reason, status, retry_after)
        return Failure("refused" if status in (400, 413, 422, 501) else "failed", reason, status)

    async def _schema_killed(self) -> bool:
        """Whether no server accepts connections any more, before any has answered under the schema."""
        if any(GUIDED in endpoint.taken for endpoint in self._endpoints):
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

    async def _complete(self, endpoint: Endpoint, question: _Question, options: Sequence[str]) -> Completion:
        arguments: dict[str, Any] = dict(self._sampling)
        if question.temperature is not None:
            arguments["temperature"] = question.temperature
        if SEED in options:
            arguments["seed"] = question.seed
        if GUIDED in options and endpoint.dialect and self._schema:
            arguments |= guided_parameters(endpoint.dialect, self._schema)
        is_utf8 = True
        try:
            made: Any = await endpoint.client.chat_completion(question.messages, model=self._model, **arguments)
        except UnicodeDecodeError as error:
            made = json.loads(error.object.decode("utf-8", errors="replace"))
            is_utf8 = False
        if not made.get("choices"):
            raise_error_in(made)
        return completion_in(made, is_utf8)


def teacher_name(model: str) -> str:
    """A model's name as provenance: of a path on the server's disk only the file's name."""
    if PurePosixPath(model).is_absolute() or PureWindowsPath(model).is_absolute():
        return PureWindowsPath(model).name
    return model


def _common_model(models: Sequence[Sequence[str]]) -> str:
    """The first model of every server; ServerError where these differ or none is named."""
    names = sorted({of_one[0] for of_one in models if of_one})
    if len(names) != 1:
        said = f"serve different models ({', '.join(names)})" if names else "do not name their model"
        raise ServerError(f"the endpoints {said}; say which one with --model")
    return names[0]


def _denied(root: str, status: int) -> str:
    return f"{root}: HTTP {status}, access denied; set HF_TOKEN in the environment to a token the server takes"
