"""EndpointHandler: what Inference Endpoints run of a model repo; it loads and calls the model that lies beside it.

    handler = EndpointHandler("runs/beauty")                   # on the Hub: the repo's own folder
    handler({"inputs": {"history": ["B004756YJA", "B00CFRTQ6M"]}, "parameters": {"k": 5}})
    handler({"inputs": {"candidates": ["B0001EKVCM", "B00CFRTQ6M"], "history": []}, "parameters": {"task": "rank"}})
    handler({"inputs": {"user": "A1YJEY40YUW4SE", "item": "B004756YJA"}, "parameters": {"task": "explain"}})

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
    "explain": ({"user": _ID, "item": _ID}, {}),
}
_DEFAULT_TASK, _DEFAULT_K = "recommend", 10


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
    parameters = {
        "type": "object",
        "properties": {"task": {"const": task}, "k": {"type": "integer", "minimum": 1, "default": _DEFAULT_K}},
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
    "properties": {"explanation": {"type": "string"}},
    "required": ["explanation"],
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
    Takes `{"inputs": query or list of queries, "parameters": {"task": …, "k": …}}`; `INPUT_SCHEMA` is its JSON Schema.

    | task | a query holds | and may hold | its answer |
    | --- | --- | --- | --- |
    | "recommend" (default) | "history": [ids, oldest first] | "user": id, "exclude": [ids] | items of the catalog |
    | "rank" | "candidates": [ids] | "history": [ids], "user": id | the candidates |
    | "explain" | "user": id, "item": id | | a sentence |

    Items come as `[{"item": id, "score": log-likelihood}]`, best first, at most "k" (10); a sentence as
    `{"explanation": text}`; for a list of queries, a list of such answers; `OUTPUT_SCHEMA` is the JSON Schema. Ids are
    raw ids, numbers as they are or as text. Items to exclude that the catalog does not hold are passed over. "user" is
    needed for models with `history="encoder"`.
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
        task, k = _parameters(data.get("parameters", {}))
        inputs = data["inputs"]
        if isinstance(inputs, Mapping):
            return self._answer([self._read(inputs, task, "inputs")], task, k)[0]
        if not isinstance(inputs, list):
            raise ValueError("inputs: give an object, or a list of objects")
        return self._answer([self._read(query, task, f"inputs[{n}]") for n, query in enumerate(inputs)], task, k)

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
        if task != "explain" and self.model.config.history == "encoder" and "user" not in given:
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

    def _answer(self, queries: list[dict], task: str, k: int) -> list:
        answers: list = [None] * len(queries)
        # The model answers users together where it knows all of them, or none.
        for known in (True, False):
            places = [place for place, query in enumerate(queries) if ("user" in query) == known]
            if places:
                with self._lock:
                    some = self._ask([queries[place] for place in places], task, k, known)
                for place, answer in zip(places, some):
                    answers[place] = answer
        return answers

    def _ask(self, queries: list[dict], task: str, k: int, with_users: bool) -> list:
        def column(key: str) -> list:
            return [query.get(key, []) for query in queries]

        users = column("user") if with_users else None
        if task == "explain":
            sentences = self.model.explain(self.tokenizer, users, column("item"), internal_ids=True)
            return [{"explanation": sentence} for sentence in sentences]
        asked = {"history": column("history"), "user": users, "k": k, "internal_ids": True}
        if task == "rank":
            ranked = self.model.rank(self.tokenizer, column("candidates"), **asked)
        else:
            ranked = self.model.recommend(self.tokenizer, exclude=column("exclude"), **asked)
        raw = self.tokenizer.to_raw
        return [
            [{"item": raw("item", item), "score": score} for item, score in zip(row.items, row.scores)]
            for row in ranked
        ]


def _parameters(given: Any) -> tuple[str, int]:
    if not isinstance(given, Mapping) or given.keys() - {"task", "k"}:
        raise ValueError('parameters: give an object with "task" and "k"')
    task, k = given.get("task", _DEFAULT_TASK), given.get("k", _DEFAULT_K)
    if not isinstance(task, str) or task not in _TASKS:
        raise ValueError(f"parameters: task {task!r}: take one of {_quoted(_TASKS)}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"parameters: k {k!r}: give an integer, 1 or more")
    return task, k


def _quoted(names) -> str:
    return ", ".join(f'"{name}"' for name in names)
