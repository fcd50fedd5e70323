"""Prompts: versioned files with a hash, and the review put into them as data.

    prompt = load_prompt("grounded")            # or a path to a YAML file of the same keys
    prompt.messages(prepare("Great lamp", 4000)[0])

A file has `name`, `version`, `user` (the turn, with `{review}` once), the sampling settings, and optionally `examples`
(turns shown before), `user_again` (the turn's wording after the first), `schema` (the answer is a JSON object) and
`temperature_again` (for a review that is asked again). A judge's turn has `{claim}`, too, after the review.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rdrec.errors import UserError


FOLDER = Path(__file__).parent / "prompt_files"
PLACE = "{review}"
CLAIM = "{claim}"
KEYS = {"name", "version", "temperature", "top_p", "max_tokens", "user"}

# Chat templates mark turns with <|…|>, <…>, <<SYS>> or [INST]; servers turn these into control tokens wherever they
# stand. Without "<" and ">" a text can hold neither those nor our own </review>.
_ANGLES = str.maketrans({"<": "\u2039", ">": "\u203a"})
_BRACKETED = re.compile(r"\[(/?[A-Z][A-Z_]*)\]")
# Control and format characters, U+FFFD (what a byte that is not UTF-8 became), private use.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufffd\ue000-\uf8ff\ud800-\udfff]"
)


def prepare(text: str, max_chars: int) -> tuple[str, bool]:
    """A review as it goes into a prompt: one line, no control characters, nothing that could end its place.

    Parameters
    ----------
    text : str
        The review as its file has it.
    max_chars : int
        Longer texts are cut at a blank, so that they fit the server's context.

    Returns
    -------
    str
        Empty when nothing that can be read is left.
    bool
        Whether it was cut.
    """
    text = _INVISIBLE.sub("", text).translate(_ANGLES)
    text = " ".join(_BRACKETED.sub(r"(\1)", text).split())
    if not any(character.isalnum() for character in text):
        return "", False
    if len(text) <= max_chars:
        return text, False
    head, blank, _ = text[: max_chars + 1].rpartition(" ")
    return (head if blank else text[:max_chars]), True


@dataclass(frozen=True)
class Prompt:
    """One prompt. `label` is its provenance: name, version and the first digits of its file's SHA-256."""

    name: str
    version: int
    sha256: str
    turns: tuple[dict[str, str], ...]  # shown before the question
    before: str
    after: str
    schema: dict[str, Any] | None
    temperature: float
    temperature_again: float
    top_p: float
    max_tokens: int

    @property
    def label(self) -> str:
        return f"{self.name}-v{self.version}-{self.sha256[:8]}"

    @property
    def sampling(self) -> dict[str, Any]:
        """Its own `temperature`, `top_p` and `max_tokens`."""
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}

    def messages(self, review: str, claim: str = "") -> list[dict[str, str]]:
        """The chat that asks about one prepared review; a judge's also about a prepared claim."""
        after = self.after.replace(CLAIM, claim)
        return [*self.turns, {"role": "user", "content": f"{self.before}{review}{after}"}]


def load_prompt(name: str) -> Prompt:
    """Load a prompt of this package by its name, or any prompt file by its path.

    Raises
    ------
    UserError
        No such prompt, not YAML, a key missing, or a place for the review that is missing or there twice.
    """
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise UserError(f"--prompt {name}: no such prompt; choose one of {known}, or give a file")
    content = path.read_bytes()
    try:
        made = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from error
    missing = sorted(KEYS - made.keys()) if isinstance(made, dict) else sorted(KEYS)
    if missing:
        raise UserError(f"{path}: no {missing[0]!r}; a prompt file has {', '.join(sorted(KEYS))}")
    wordings = [made["user"].strip(), made.get("user_again", made["user"]).strip()]
    for wording in wordings:
        if wording.count(PLACE) != 1:
            raise UserError(f"{path}: write {PLACE} once in each turn; it is there {wording.count(PLACE)} times")
    turns = _example_turns(made.get("examples", []), wordings)
    before, after = wordings[bool(turns)].split(PLACE)
    return Prompt(
        name=str(made["name"]),
        version=int(made["version"]),
        sha256=hashlib.sha256(content).hexdigest(),
        turns=tuple(turns),
        before=before,
        after=after,
        schema=made.get("schema"),
        temperature=float(made["temperature"]),
        temperature_again=float(made.get("temperature_again", made["temperature"])),
        top_p=float(made["top_p"]),
        max_tokens=int(made["max_tokens"]),
    )


def _example_turns(examples: list[dict[str, Any]], wordings: list[str]) -> list[dict[str, str]]:
    """The chat of a prompt's examples; `wordings` are the user's first turn and all later ones."""
    turns: list[dict[str, str]] = []
    for example in examples:
        before, after = wordings[bool(turns)].split(PLACE)
        review, _ = prepare(example["review"], len(example["review"]))
        answer = example["answer"]
        turns.append({"role": "user", "content": f"{before}{review}{after}"})
        written = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        turns.append({"role": "assistant", "content": written})
    return turns
