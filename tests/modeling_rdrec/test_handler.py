"""handler.py as an Inference Endpoint runs it: what it answers, what it refuses, many clients at once."""

import ast
import json
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from modeling_rdrec import handler as module
from modeling_rdrec.handler import INPUT_SCHEMA, OUTPUT_SCHEMA, EndpointHandler
from rdrec.checkpoints.loading import load_pretrained
from tests.conftest import CHECKPOINT
from tests.fakes.inference_toolkit import Serving, load_handler, stage_repo


@pytest.fixture(scope="module")
def visitors_repo(tmp_path_factory):
    """A repo whose model reads histories in its decoder and knows no users, as trained by default."""
    path = tmp_path_factory.mktemp("handler")
    model, tokenizer = load_pretrained(str(CHECKPOINT))
    model.config.history, model.config.reads_users = "decoder", False
    model.save_pretrained(path / "checkpoint")
    tokenizer.save_pretrained(path / "checkpoint")
    return stage_repo(path / "checkpoint", path / "repo")


@pytest.fixture(scope="module")
def handler(visitors_repo):
    return load_handler(visitors_repo)


@pytest.fixture(scope="module")
def asked(handler):
    """The model that the handler asks, its tokenizer, five items and a user."""
    raw = handler.tokenizer.to_raw
    return handler.model, handler.tokenizer, [raw("item", n) for n in range(1, 6)], raw("user", 7)


def pairs(ranked):
    return [{"item": item, "score": pytest.approx(score)} for item, score in zip(ranked.items, ranked.scores)]


def test_each_task_is_answered_as_the_model_answers(handler, asked):
    model, tokenizer, items, user = asked
    found = handler({"inputs": {"history": items[:2], "exclude": [items[2], "gone"]}, "parameters": {"k": 3}})
    assert found == pairs(model.recommend(tokenizer, items[:2], k=3, exclude=[items[2]]))
    assert len(handler({"inputs": {"history": []}})) == 10
    found = handler({"inputs": {"candidates": items, "history": items[:1]}, "parameters": {"task": "rank", "k": 4}})
    assert found == pairs(model.rank(tokenizer, items, history=items[:1], k=4))
    found = handler({"inputs": {"user": user, "item": items[0]}, "parameters": {"task": "explain", "k": 10}})
    sentence = model.explain(tokenizer, user, items[0])
    assert found == {"explanation": sentence, "source": "beams", "support": 0.0, "evidence": []}
    json.dumps(found)


def test_a_list_is_answered_in_its_order(handler, asked):
    _, _, items, user = asked
    queries = [
        {"history": items[:2]},
        {"history": items[:3], "user": user, "exclude": items[3:]},
        {"history": [], "user": None, "exclude": None},
    ]
    together = handler({"inputs": queries})
    alone = [handler({"inputs": query}) for query in queries]
    assert [[row["item"] for row in rows] for rows in together] == [[row["item"] for row in rows] for rows in alone]
    assert handler({"inputs": []}) == []
    sentences = handler({"inputs": [{"user": user, "item": item} for item in items], "parameters": {"task": "explain"}})
    assert [row["explanation"] for row in sentences] == handler.model.explain(handler.tokenizer, [user] * 5, items)


def test_k_beyond_the_catalog_gives_all_of_it(handler, asked):
    _, tokenizer, items, _ = asked
    found = handler({"inputs": {"history": items[:2]}, "parameters": {"k": 10**6}})
    assert len(found) == tokenizer.num_ids("item") - 2


def test_a_model_that_reads_users_asks_for_them(tiny_checkpoint, tmp_path):
    handler = load_handler(stage_repo(tiny_checkpoint, tmp_path / "repo"))
    user, item = handler.tokenizer.to_raw("user", 3), handler.tokenizer.to_raw("item", 4)
    with pytest.raises(ValueError, match=r'^inputs\[1\]: this model reads whose history it is: give "user"$'):
        handler({"inputs": [{"history": [item], "user": user}, {"history": [item]}]})
    expected = handler.model.recommend(handler.tokenizer, [item], user=user)
    assert handler({"inputs": {"history": [item], "user": user}}) == pairs(expected)


HISTORY = {"inputs": {"history": []}}
WRONG = [
    (["x"], 'give an object {"inputs": …'),
    ({"history": []}, 'give an object {"inputs": …'),
    ({"inputs": "B1"}, "inputs: give an object, or a list of objects"),
    ({"inputs": None}, "inputs: give an object, or a list of objects"),
    ({"inputs": [{"history": []}, "B1"]}, 'inputs[1]: give an object with "history"'),
    ({"inputs": {}}, "inputs: task 'recommend' needs \"history\""),
    ({"inputs": {"history": None}}, "inputs: task 'recommend' needs \"history\""),
    ({"inputs": {"history": [], "candidates": []}}, 'inputs: "candidates": task \'recommend\' takes "history", "user"'),
    ({"inputs": {"history": "B1"}}, "inputs: history: give a list of ids"),
    ({"inputs": {"history": [["B1"]]}}, "inputs: history: item ['B1'] is no id"),
    ({"inputs": {"history": [True]}}, "inputs: history: item True is no id"),
    ({"inputs": {"history": [1.5]}}, "inputs: history: item 1.5 is no id"),
    ({"inputs": [{"history": []}, {"history": ["gone"]}]}, "inputs[1]: history: unknown item 'gone'"),
    ({"inputs": {"history": [], "user": "nobody"}}, "inputs: user: unknown user 'nobody'"),
    ({"inputs": {"history": [], "user": ["nobody"]}}, "inputs: user: give one id"),
    ({"inputs": {"history": [], "exclude": "gone"}}, "inputs: exclude: give a list of ids"),
    (HISTORY | {"parameters": []}, 'parameters: give an object with "task", "k" and "voice"'),
    (HISTORY | {"parameters": {"top_k": 3}}, 'parameters: give an object with "task", "k" and "voice"'),
    (HISTORY | {"parameters": {"task": "sell"}}, 'parameters: task \'sell\': take one of "recommend", "rank"'),
    (HISTORY | {"parameters": {"k": 0}}, "parameters: k 0: give an integer, 1 or more"),
    (HISTORY | {"parameters": {"k": True}}, "parameters: k True: give an integer"),
    (HISTORY | {"parameters": {"k": "3"}}, "parameters: k '3': give an integer"),
    (HISTORY | {"parameters": {"task": "rank"}}, "inputs: task 'rank' needs \"candidates\""),
    ({"inputs": {"candidates": []}, "parameters": {"task": "rank"}}, "inputs: candidates: give at least one"),
    ({"inputs": {"user": "u"}, "parameters": {"task": "explain"}}, "inputs: task 'explain' needs \"item\""),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_what_cannot_be_answered_is_one_line_that_says_why(handler, data, message):
    with pytest.raises(ValueError) as raised:
        handler(data)
    assert str(raised.value).startswith(message) and "\n" not in str(raised.value)


def valid(value, schema) -> bool:
    """The words of JSON Schema that ours use."""
    if "anyOf" in schema and not any(valid(value, one) for one in schema["anyOf"]):
        return False
    if "const" in schema and value != schema["const"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and (isinstance(value, bool) or not any(isinstance(value, kinds[name]) for name in names)):
        return False
    if "minimum" in schema and value < schema["minimum"]:
        return False
    if isinstance(value, list):
        return all(valid(one, schema.get("items", {})) for one in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        if set(schema.get("required", [])) - set(value) or (
            schema.get("additionalProperties") is False and set(value) - set(known)
        ):
            return False
        return all(valid(one, known.get(key, {})) for key, one in value.items())
    return True


def test_the_schemas_say_what_is_taken_and_given(handler, asked):
    _, _, items, user = asked
    queries = {
        "recommend": {"history": items[:2], "user": user, "exclude": None},
        "rank": {"candidates": items, "history": items[:2], "user": None},
        "explain": {"user": user, "item": items[0]},
    }
    for task, query in queries.items():
        for inputs in (query, [query, query]):
            data = {"inputs": inputs, "parameters": {"task": task, "k": 2}}
            assert valid(data, INPUT_SCHEMA) and valid(handler(data), OUTPUT_SCHEMA)
    assert valid({"inputs": {"history": []}}, INPUT_SCHEMA) and valid([], OUTPUT_SCHEMA)
    assert json.loads(json.dumps(INPUT_SCHEMA)) == INPUT_SCHEMA and not valid({"score": 1}, OUTPUT_SCHEMA)
    # What only the catalog or a list's length tells is not of the form.
    of_form = ("unknown", "give at least one", "is no id")
    for data, message in WRONG:
        if not any(word in message for word in of_form):
            assert not valid(data, INPUT_SCHEMA), data


def test_it_stands_alone(visitors_repo):
    names = set()
    for node in ast.walk(ast.parse((visitors_repo / "handler.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module)
    assert {name.split(".")[0] for name in names} <= {"torch", "transformers", "numpy", *sys.stdlib_module_names}


def test_its_folder_is_the_default(visitors_repo, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(visitors_repo / "handler.py"))
    assert len(EndpointHandler()({"inputs": {"history": []}})) == 10


def test_a_repo_without_a_catalog_is_refused_at_the_start(visitors_repo, tmp_path):
    shutil.copytree(visitors_repo, tmp_path / "repo")
    for path in (tmp_path / "repo").glob("catalog*.json"):
        path.unlink()
    with pytest.raises(ValueError, match="catalog.json"):
        load_handler(tmp_path / "repo")


def test_threads_are_answered_one_after_another_each_its_own_question(handler, asked, monkeypatch):
    """A tokenizer that pads one thread's batch would pad the others' too."""
    model, _, items, _ = asked
    questions = [{"inputs": {"history": items[: n % 5]}, "parameters": {"k": n}} for n in range(1, 25)]
    alone = [handler(question) for question in questions]
    recommend, inside, overlaps = model.recommend, threading.Semaphore(1), []

    def watched(*args, **kwargs):
        overlaps.append(not inside.acquire(blocking=False))
        time.sleep(0.005)  # lets another thread in, if it can get in
        try:
            return recommend(*args, **kwargs)
        finally:
            if not overlaps[-1]:
                inside.release()

    monkeypatch.setattr(model, "recommend", watched)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(handler, questions)) == alone
    assert not any(overlaps) and len(overlaps) == len(questions)


@pytest.mark.slow
def test_over_http_errors_are_400_and_nothing_is_lost(visitors_repo, asked, no_proxy_no_token):
    _, tokenizer, items, _ = asked
    with Serving(visitors_repo, threads=4) as server, httpx2.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/health").text == "Ok"
        for body in ({"inputs": {"history": ["gone"]}}, {"history": []}, {"inputs": {"history": []}, "parameters": 1}):
            reply = client.post("/", json=body)
            assert reply.status_code == 400 and "\n" not in reply.json()["error"]
        assert client.post("/", content=b"{").status_code == 400

        def ask(k):
            return client.post("/predict", json={"inputs": {"history": items}, "parameters": {"k": k}})

        with ThreadPoolExecutor(16) as pool:
            replies = list(pool.map(ask, range(1, 65)))
    assert [reply.status_code for reply in replies] == [200] * 64
    assert [len(reply.json()) for reply in replies] == list(range(1, 65))
