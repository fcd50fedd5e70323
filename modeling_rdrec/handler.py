"""EndpointHandler: what Inference Endpoints run of a model repo; it loads and calls the model that lies beside it.

    handler = EndpointHandler("runs/beauty")                   # on the Hub: the repo's own folder
    handler({"inputs": {"history": ["B004756YJA", "B00CFRTQ6M"]}, "parameters": {"k": 5}})
    handler({"inputs": {"candidates": ["B0001EKVCM", "B00CFRTQ6M"], "history": []}, "parameters": {"task": "rank"}})
    handler({"inputs": {"user": "A1YJEY40YUW4SE", "item": "B004756YJA"}, "parameters": {"task": "explain"}})
    handler({"inputs": {"history": ["B00CFRTQ6M"], "item": "B004756YJA"}, "parameters": {"task": "explain"}})

The server imports this file by its path, so it imports no other of the repo. What it cannot answer it raises as a
ValueError of one line, which the server sends back as status 400 with `{"error": line}`.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer


_ID = {"type": ["string", "integer"], "description": "raw id, as the data has it"}
_IDS = {"type": "array", "items": _ID}
# What a query of each task holds: first what it must have, then what it may have (null: as if it were not there).
_TASKS: dict[str, tuple[dict, dict]] = {
    "recommend": ({"history": _IDS}, {"user": _ID, "exclude": _IDS}),
    "rank": ({"candidates": _IDS}, {"history": _IDS, "user": _ID}),
    "explain": ({"item": _ID}, {"user": _ID, "history": _IDS}),
}
_DEFAULT_TASK, _DEFAULT_K = "recommend", 10
# What an explanation says (`explain`'s voices).
_VOICES = ("explanation", "user_preference", "item_attributes")


def _or_null(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "null"}]}


def _one_or_several(schema: dict) -> dict:
    return {"anyOf": [schema, {"type": "array", "items": schema}]}


def _request_schema(task: str) -> dict:
    needed, optional = _TASKS[task]
    query = {
        "type": "object",
        "properties": needed | {key: _or_null(schema) for key, schema in optional.items()},
        "required": list(needed),
        "additionalProperties": False,
    }
    properties = {"task": {"const": task}, "k": {"type": "integer", "minimum": 1, "default": _DEFAULT_K}}
    if task == "explain":
        properties["voice"] = {"enum": list(_VOICES), "default": _VOICES[0]}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [] if task == _DEFAULT_TASK else ["task"],
        "additionalProperties": False,
    }
    return {
        "title": task,
        "type": "object",
        "properties": {"inputs": _one_or_several(query), "parameters": parameters},
        "required": ["inputs"] if task == _DEFAULT_TASK else ["inputs", "parameters"],
    }


_RANKED = {
    "title": "recommend, rank: best first",
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"item": {"type": "string"}, "score": {"type": "number"}},
        "required": ["item", "score"],
    },
}
_EXPLAINED = {
    "title": "explain",
    "type": "object",
    "properties": {
        "explanation": {"type": ["string", "null"]},
        "source": {"enum": ["evidence", "beams", None]},
        "support": {"type": "number"},
        "evidence": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "about": {"enum": ["item", "user"]},
                    "kind": {"type": "string"},
                    "review": {"type": ["integer", "null"]},
                    "text": {"type": "string"},
                },
                "required": ["about", "kind", "review", "text"],
            },
        },
    },
    "required": ["explanation", "source", "support", "evidence"],
}
# JSON Schemas (draft 2020-12) of what `EndpointHandler` takes and gives.
INPUT_SCHEMA = {"anyOf": [_request_schema(task) for task in _TASKS]}
OUTPUT_SCHEMA = {"anyOf": [_one_or_several(_RANKED), _one_or_several(_EXPLAINED)]}


class EndpointHandler:
    """A model, ready to be asked by any number of threads.

    Parameters
    ----------
    path : str
        Folder of the repo. Default: where this file lies.

    Notes
    -----
    Takes `{"inputs": query or list of queries, "parameters": {"task": …}}`; `INPUT_SCHEMA` is its JSON Schema.

    | task | a query holds | and may hold | its answer |
    | --- | --- | --- | --- |
    | "recommend" (default) | "history": [ids, oldest first] | "user": id, "exclude": [ids] | items of the catalog |
    | "rank" | "candidates": [ids] | "history": [ids], "user": id | the candidates |
    | "explain" | "item": id | "user": id, "history": [ids] | a sentence |

    Items come as `[{"item": id, "score": log-likelihood}]`, best first, at most "k" (a parameter, 10); a sentence as
    `{"explanation": text, "source": …, "support": …, "evidence": [{"about", "kind", "review", "text"}]}`, which are the
    fields of `Explanation` (`evidence.py`), in the "voice" that is asked for (a parameter); for a list of queries, a
    list of such answers; `OUTPUT_SCHEMA` is the JSON Schema. Ids are raw ids, numbers as they are or as text. Items to
    exclude that the catalog does not hold are passed over. "user" is needed for models with `history="encoder"`, and to
    explain for those that carry no evidence; otherwise a history does.
    """

    def __init__(self, path: str = ""):
        folder = path or str(Path(__file__).resolve().parent)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
        self.model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        # One question now: a file that is missing or damaged is told at the start, and the first client need not wait.
        self.model.recommend(self.tokenizer, [], user=1, k=1, internal_ids=True)
        # A tokenizer changes its settings for each call, and a call has all cores to itself: one after another.
        self._lock = threading.Lock()

    def __call__(self, data: Mapping[str, Any]) -> list | dict:
        """Answer one query or a list of queries.

        Raises
        ------
        ValueError
            For what is not of the form above, or an id that the catalog does not hold; of a list, it names the query.
            Nothing is answered then.
        """
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError('give an object {"inputs": …, "parameters": …}')
        task, settings = _parameters(data.get("parameters", {}))
        inputs = data["inputs"]
        if isinstance(inputs, Mapping):
            return self._answer([self._read(inputs, task, "inputs")], task, settings)[0]
        if not isinstance(inputs, list):
            raise ValueError("inputs: give an object, or a list of objects")
        return self._answer([self._read(query, task, f"inputs[{n}]") for n, query in enumerate(inputs)], task, settings)

    def _read(self, query: Any, task: str, where: str) -> dict[str, Any]:
        """A query with internal ids, without what is null."""
        needed, optional = _TASKS[task]
        keys = needed | optional
        if not isinstance(query, Mapping):
            raise ValueError(f"{where}: give an object with {_quoted(needed)}")
        if others := query.keys() - keys.keys():
            raise ValueError(f"{where}: {_quoted(sorted(others))}: task {task!r} takes {_quoted(keys)}")
        given = {key: value for key, value in query.items() if value is not None}
        if missing := [key for key in needed if key not in given]:
            raise ValueError(f"{where}: task {task!r} needs {_quoted(missing)}")
        if "user" not in given:
            if task == "explain" and not (self.model.config.reads_evidence and "history" in given):
                more = ' or "history"' if self.model.config.reads_evidence else ""
                raise ValueError(f'{where}: for whom is it to be explained? give "user"{more}')
            if task != "explain" and self.model.config.history == "encoder":
                raise ValueError(f'{where}: this model reads whose history it is: give "user"')
        return {key: self._ids(key, value, keys[key] is _IDS, f"{where}: {key}") for key, value in given.items()}

    def _ids(self, key: str, value: Any, several: bool, where: str) -> int | list[int]:
        if several != isinstance(value, list):
            raise ValueError(f"{where}: give {'a list of ids' if several else 'one id'}")
        kind, found = "user" if key == "user" else "item", []
        for one in value if several else [value]:
            try:
                known = self.tokenizer.knows(kind, one)
            except ValueError as error:  # true, null, a list: no id at all
                raise ValueError(f"{where}: {error}") from error
            if known:
                found.append(self.tokenizer.to_id(kind, one))
            elif key != "exclude":
                raise ValueError(f"{where}: unknown {kind} {one!r}: it is not in this model's catalog")
        if key == "candidates" and not found:
            raise ValueError(f"{where}: give at least one")
        return found if several else found[0]

    def _answer(self, queries: list[dict], task: str, settings: dict) -> list:
        answers: list = [None] * len(queries)
        # The model answers users together where it knows all of them, or none.
        for known in (True, False):
            places = [place for place, query in enumerate(queries) if ("user" in query) == known]
            if places:
                with self._lock:
                    some = self._ask([queries[place] for place in places], task, settings, known)
                for place, answer in zip(places, some):
                    answers[place] = answer
        return answers

    def _ask(self, queries: list[dict], task: str, settings: dict, with_users: bool) -> list:
        def column(key: str) -> list:
            return [query.get(key, []) for query in queries]

        users = column("user") if with_users else None
        if task == "explain":
            asked = {"history": column("history"), "return_evidence": True, "internal_ids": True}
            answers = self.model.explain(self.tokenizer, users, column("item"), **asked, **settings)
            return [_explained(answer) for answer in answers]
        asked = {"history": column("history"), "user": users, "internal_ids": True, **settings}
        if task == "rank":
            ranked = self.model.rank(self.tokenizer, column("candidates"), **asked)
        else:
            ranked = self.model.recommend(self.tokenizer, exclude=column("exclude"), **asked)
        raw = self.tokenizer.to_raw
        return [
            [{"item": raw("item", item), "score": score} for item, score in zip(row.items, row.scores)]
            for row in ranked
        ]


def _explained(answer) -> dict:
    said = {"explanation": answer.text, "source": answer.source, "support": answer.support}
    return said | {"evidence": [sentence._asdict() for sentence in answer.evidence]}


def _parameters(given: Any) -> tuple[str, dict]:
    """The task, and what else the model's method is asked with."""
    if not isinstance(given, Mapping) or given.keys() - {"task", "k", "voice"}:
        raise ValueError('parameters: give an object with "task", "k" and "voice"')
    task = given.get("task", _DEFAULT_TASK)
    if not isinstance(task, str) or task not in _TASKS:
        raise ValueError(f"parameters: task {task!r}: take one of {_quoted(_TASKS)}")
    k, voice = given.get("k", _DEFAULT_K), given.get("voice", _VOICES[0])
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"parameters: k {k!r}: give an integer, 1 or more")
    if voice not in _VOICES or ("voice" in given and task != "explain"):
        raise ValueError(f"parameters: voice {voice!r}: task 'explain' takes one of {_quoted(_VOICES)}")
    return task, {"voice": voice} if task == "explain" else {"k": k}


def _quoted(names) -> str:
    return ", ".join(f'"{name}"' for name in names)
