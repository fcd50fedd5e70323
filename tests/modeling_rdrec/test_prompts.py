"""The bare prompt has one source: what training and inference write changes together."""

import pytest

from modeling_rdrec.prompts import BARE, fill
from rdrec.tasks.mixture import TaskMixture, validation_rows
from rdrec.tasks.wordings import WORDINGS


def test_users_and_items_are_written_as_in_the_paper():
    assert fill(BARE["sequential"], 12, [3, 45]) == "user_12 item_3 item_45"
    assert fill(BARE["sequential"], items=[3, 45]) == "item_3 item_45" and fill(BARE["sequential"]) == ""
    assert fill(BARE["explanation"], 12, [3]) == "user_12 item_3" and fill(BARE["topn"], 1, [2]) == "user_1 item_2"


def test_the_first_wording_of_training_is_the_bare_prompt():
    assert {task: wordings[0] for task, wordings in WORDINGS.items()} == BARE


@pytest.mark.parametrize("history", ["encoder", "decoder"])
def test_changing_it_changes_training_validation_and_inference(model, tokenizer, sample_data, monkeypatch, history):
    """`read` is every text that inference hands to the tokenizer."""
    for task, wording in BARE.items():
        monkeypatch.setitem(BARE, task, f"new words of {task} : {wording}")
    read = []
    call = type(tokenizer).__call__

    def note(self, text, *rest, **settings):
        read.extend([text] if isinstance(text, str) else text)
        return call(self, text, *rest, **settings)

    monkeypatch.setattr(type(tokenizer), "__call__", note)
    monkeypatch.setattr(model.config, "history", history)
    tokenizer.catalog_trie()
    read.clear()
    model.recommend(tokenizer, [3, 4], user=5, k=2, internal_ids=True)
    model.rank(tokenizer, [6, 7], history=[3], user=5, internal_ids=True)
    model.explain(tokenizer, 5, 3, internal_ids=True)
    rows = validation_rows(sample_data, seed=0, max_samples=3, history=history)
    assert all(row.prompt.startswith(f"new words of {row.task} : ") for row in rows)
    explained = "new words of explanation : user_5 item_3"
    if history == "encoder":
        sequential, topn = "new words of sequential : user_5 item_3 item_4", "new words of topn : user_5 item_6 item_7"
        assert read == [sequential, topn, explained]
        # Training words its rows at random, the bare form among them: `WORDINGS` takes it from the same place.
    else:
        trained = TaskMixture(sample_data, history="decoder", user_dropout=0.0).rows(0)
        named = [row.prompt for row in trained if row.family == "sequential"]
        assert all(prompt.startswith("new words of sequential : user_") for prompt in named) and named
        assert read == ["new words of sequential : user_5"] * 2 + [explained]
