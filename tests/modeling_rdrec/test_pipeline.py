"""The pipeline that travels with a checkpoint: what it takes and gives, and how a wrong query is named."""

import pytest
from transformers import pipeline

from modeling_rdrec.pipeline_rdrec import CUSTOM_PIPELINES, TASK, RDRecPipeline


@pytest.fixture
def recommender(model, tokenizer):
    return RDRecPipeline(model=model, tokenizer=tokenizer)


def test_answers_are_those_of_the_model(recommender, model, tokenizer):
    queries = [{"user": 1, "history": [1, 2]}, {"user": 2, "candidates": [3, 4, 5]}, {"user": 3, "history": [9]}]
    answers = recommender(queries, batch_size=2, top_k=4)
    assert [[row["item"] for row in rows] for rows in answers] == [
        model.recommend(tokenizer, user=1, history=[1, 2], k=4).items,
        model.rank(tokenizer, user=2, candidates=[3, 4, 5], k=4).items,
        model.recommend(tokenizer, user=3, history=[9], k=4).items,
    ]
    assert recommender(queries[1], top_k=4) == answers[1] and recommender([]) == []


def test_explanations_stand_beside_their_items(recommender, model, tokenizer, monkeypatch):
    from modeling_rdrec.generation_rdrec import RankedItems

    monkeypatch.setattr(
        model, "recommend", lambda *_, user, history, k: [RankedItems([7, 8], [-1.0, -2.0])] * len(user)
    )
    (first, second), again = recommender([{"user": 1, "history": [1]}, {"user": 2, "history": []}], explain=True)
    assert first == {"item": 7, "score": -1.0, "explanation": model.explain(tokenizer, user=1, item=7)}
    assert second["explanation"] == model.explain(tokenizer, user=1, item=8) and len(again) == 2


@pytest.mark.parametrize(
    "query", [{"user": 1}, {"user": 1, "history": [], "candidates": []}, "user 1", {"history": []}]
)
def test_a_query_of_another_form_is_named(recommender, query):
    with pytest.raises(ValueError, match='query 1: give {"user": id, "history"'):
        recommender([{"user": 1, "history": [2]}, query])
    with pytest.raises(ValueError, match="unknown user 'nobody'"):
        recommender({"user": "nobody", "history": [1]})


def test_transformers_finds_it_by_its_name(tiny_checkpoint):
    found = pipeline(TASK, model=str(tiny_checkpoint), trust_remote_code=True)
    assert type(found).__name__ == RDRecPipeline.__name__ and found.model.config.custom_pipelines == CUSTOM_PIPELINES
