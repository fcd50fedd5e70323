"""Responses: what one HTTP answer of a server says: a completion, an error in its own words, the models that are there.

Everything here reads what a server sent and believes none of it: bodies are bounded, fields may be missing or of
another kind.
"""

import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx2
from huggingface_hub.errors import HfHubHTTPError

from .parse import MAX_ANSWER_CHARS, has_content
from .thoughts import without_thoughts


MAX_BODY = 16 * 2**20  # bytes of one HTTP answer
MAX_THOUGHT_CHARS = 2**18
LONGEST_RETRY_AFTER = 3600.0  # seconds; also how long pauses that a server asks for are waited for without any answer


class Completion(NamedTuple):
    """What the teacher wrote.

    `flags`: not_utf8, too_long, only_thoughts, rejected (refused for good) and failed (given up). For the last two
    `text` says why.
    """

    text: str
    finish: str
    tokens: int
    flags: tuple[str, ...] = ()


@dataclass(eq=False)
class Failure(Exception):
    """A request without a completion. `kind`: busy, refused, timeout or failed; `status` 0 where there was none."""

    kind: str
    reason: str
    status: int = 0
    retry_after: float | None = None


def raise_error_in(made: dict[str, Any]) -> None:
    """Raise what an answer without choices says in an error's place: {"error": …}, or vLLM's {"object": "error", …}."""
    error = made.get("error") or (made if made.get("object") == "error" else None)
    if error is None:
        return
    code = error.get("code") if isinstance(error, dict) else None
    code = code if isinstance(code, int) and 400 <= code < 600 else 0
    words = error.get("message") or json.dumps(error) if isinstance(error, dict) else str(error)
    raise Failure("failed", f"error in an HTTP 200: {' '.join(str(words).split())[:200]}", code)


def completion_in(made: dict[str, Any], is_utf8: bool) -> Completion:
    """The answer in a chat completion; what is no chat completion raises TypeError, LookupError or AttributeError."""
    choice = made["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError("the content is no text")
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else ""
    usage = made.get("usage") or {}
    tokens = usage.get("completion_tokens")
    flags: set[str] = set() if is_utf8 else {"not_utf8"}
    # Thoughts that the server set apart, in whichever field, are not read; an answer that was cut before it began
    # consists of them.
    thoughts_apart = message.get("reasoning") or message.get("reasoning_content")
    whole_answer = without_thoughts(text[:MAX_THOUGHT_CHARS]).answer
    if not has_content(whole_answer) and (has_content(text) or thoughts_apart or finish == "length"):
        flags.add("only_thoughts")
    if len(text) > MAX_ANSWER_CHARS:
        text = whole_answer  # its thoughts go before its end, which may hold the tag that tells them from the answer
    if len(text) > MAX_ANSWER_CHARS:
        flags.add("too_long")
        text = text[:MAX_ANSWER_CHARS]
    # A lone surrogate ("\ud83d" of a cut emoji) is legal in JSON and cannot be written as UTF-8.
    sound = text.encode("utf-8", errors="replace").decode("utf-8")
    if sound != text:
        flags.add("not_utf8")
    return Completion(sound, finish, tokens if isinstance(tokens, int) else 0, tuple(sorted(flags)))


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


async def bound_body(response: httpx2.Response) -> None:
    response.stream = _Bounded(response.stream)  # a server gone mad must not fill our memory


def json_of(response: httpx2.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def model_entries(response: httpx2.Response) -> list[dict[str, Any]]:
    """What a server's /v1/models lists."""
    made = json_of(response) if response.status_code == 200 else None
    data = made.get("data") if isinstance(made, dict) else None
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def reason_of(error: HfHubHTTPError) -> str:
    """Status and the server's own words, in one short line."""
    said = json_of(error.response)
    for key in ("error", "message", "detail"):
        said = said[key] if isinstance(said, dict) and key in said else said
    words = said if isinstance(said, str) else error.response.text
    return f"HTTP {error.response.status_code} {' '.join(words.split())[:200]}".strip()


def retry_after_of(value: str | None) -> float | None:
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
