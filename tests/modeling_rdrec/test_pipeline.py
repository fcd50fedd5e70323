"""The pipeline that travels with a checkpoint: what it takes and gives, and how a wrong query is named."""

import pytest
from transformers import pipeline

from modeling_rdrec.pipeline_rdrec import CUSTOM_PIPELINES, TASK, RDRecPipeline


@pytest.fixture
def recommender(model, tokenizer):
    return RDRecPipeline(model=model, tokenizer=tokenizer)


def raw(tokenizer, kind, *numbers):
    return [tokenizer.to_raw(kind, number) for number in numbers]


def test_answers_are_those_of_the_model(recommender, model, tokenizer):
    (one, two, three), items = raw(tokenizer, "user", 1, 2, 3), raw(tokenizer, "item", 1, 2, 3, 4, 5, 9)
    queries = [
        {"user": one, "history": items[:2]},
        {"user": two, "candidates": items[2:5]},
        {"user": three, "history": items[5:]},
    ]
    answers = recommender(queries, batch_size=2, top_k=4)
    assert [[row["item"] for row in rows] for rows in answers] == [
        model.recommend(tokenizer, user=one, history=items[:2], k=4).items,
        model.rank(tokenizer, user=two, candidates=items[2:5], k=4).items,
        model.recommend(tokenizer, user=three, history=items[5:], k=4).items,
    ]
    assert recommender(queries[1], top_k=4) == answers[1] and recommender([]) == []


def test_explanations_stand_beside_their_items(recommender, model, tokenizer, monkeypatch):
    from modeling_rdrec.generation_rdrec import RankedItems

    (one, two), items = raw(tokenizer, "user", 1, 2), raw(tokenizer, "item", 7, 8)
    monkeypatch.setattr(model, "recommend", lambda *_, user, history, k: [RankedItems(items, [-1.0, -2.0])] * len(user))
    (first, second), again = recommender([{"user": one, "history": items}, {"user": two, "history": []}], explain=True)
    assert first == {"item": items[0], "score": -1.0, "explanation": model.explain(tokenizer, user=one, item=items[0])}
    assert second["explanation"] == model.explain(tokenizer, user=one, item=items[1]) and len(again) == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"user": "u"}, 'query 1: give {"history"'),
        ("user 1", 'query 1: give {"history"'),
        ({"history": [], "other": 1}, 'query 1: give {"history"'),
        ({"history": []}, "this model reads the user"),
        ({"user": "nobody", "history": []}, "unknown user 'nobody'"),
    ],
)
def test_a_query_of_another_form_is_named(recommender, tokenizer, query, message):
    (user,), (item,) = raw(tokenizer, "user", 1), raw(tokenizer, "item", 2)
    with pytest.raises(ValueError, match=message):
        recommender([{"user": user, "history": [item]}, query])
    with pytest.raises(ValueError, match="query 0: an explanation is written for a user"):
        recommender({"history": [item]}, explain=True)


def test_a_visitor_without_an_account_asks_by_history_alone(recommender, model, tokenizer, monkeypatch):
    monkeypatch.setattr(model.config, "history", "decoder")
    items = raw(tokenizer, "item", 1, 2, 3, 4)
    recommended, ranked = recommender(
        [{"history": items[:2]}, {"history": items[:1], "candidates": items[1:]}], top_k=3
    )
    assert [row["item"] for row in recommended] == model.recommend(tokenizer, items[:2], k=3).items
    assert [row["item"] for row in ranked] == model.rank(tokenizer, items[1:], history=items[:1]).items


def test_transformers_finds_it_by_its_name(tiny_checkpoint):
    found = pipeline(TASK, model=str(tiny_checkpoint), trust_remote_code=True)
    assert type(found).__name__ == RDRecPipeline.__name__ and found.model.config.custom_pipelines == CUSTOM_PIPELINES
