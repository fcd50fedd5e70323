"""Explanations that rest on evidence: what is retrieved, what stands in prompts, and how one of several is chosen."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from modeling_rdrec.configuration_rdrec import TASKS
from modeling_rdrec.evidence import KINDS, EvidenceTable, Explanation, distinct_pieces, prompt, retrieve
from modeling_rdrec.explaining import Candidates, Question, choose, weigh
from modeling_rdrec.prompts import BARE
from modeling_rdrec.search import score_sentences, write
from modeling_rdrec.tree_decoder import TreeDecoder
from rdrec.tasks.mixture import TaskMixture


SOURCES = ["item_attributes", "user_preference", "explanation", "catalog"]


@pytest.fixture
def reader(model, tokenizer, sample_data):
    """The tiny model and its tokenizer, with what the sample's training reviews say."""
    model.config.reads_evidence = True
    tokenizer.evidence = sample_data.evidence(SOURCES)
    yield model, tokenizer
    tokenizer.evidence = None


def known_pair(data):
    """A user with a preference and an item with attributes in their training reviews."""
    texts = data.texts["train"]
    told = [[bool(one) for one in column] for column in (texts.user_preference, texts.item_attributes)]
    return texts.user[told[0].index(True)], texts.item[told[1].index(True)]


def test_the_table_says_what_training_reviews_say_and_nothing_that_is_held_out(sample_data):
    table, texts = sample_data.evidence(SOURCES), sample_data.texts["train"]
    said = {(row["user"], row["item"], row["review"], KINDS[row["kind"]]) for row in table.rows}
    assert {one[3] for one in said} <= set(SOURCES)
    reviews = {one[2] for one in said if one[3] != "catalog"}
    assert reviews and max(reviews) < len(texts) and min(reviews) >= 0
    for place in range(0, len(table.rows), 97):
        row = table.rows[place]
        if KINDS[row["kind"]] != "catalog":
            assert table.text(place) == " ".join(getattr(texts, KINDS[row["kind"]])[row["review"]].split()[:40])
            assert (texts.user[row["review"]], texts.item[row["review"]]) == (row["user"], row["item"])
    held_out = {(u, i) for split in ("validation", "test") for u, i in zip(*_columns(sample_data.texts[split]))}
    seen = set(zip(*_columns(texts)))
    assert not ({(u, i) for u, i, _, kind in said if kind != "catalog"} & (held_out - seen))


def _columns(texts):
    return texts.user, texts.item


def test_the_table_is_saved_and_read_whole(tmp_path):
    table = EvidenceTable.build(
        [(1, 2, 0, "explanation", "A süße\n brush."), (1, 2, 1, "catalog", " "), (2, 2, 1, "catalog", "x")]
    )
    table.save(tmp_path / "e.npz")
    again = EvidenceTable.load(tmp_path / "e.npz")
    assert [again.text(row) for row in range(2)] == ["A süße brush.", "x"] and (again.rows == table.rows).all()
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    np.savez(tmp_path / "other.npz", rows=table.rows, content=table.content[:-1])
    for name in ("bad.npz", "other.npz"):
        with pytest.raises(ValueError, match=f"{name}: no table of evidence"):
            EvidenceTable.load(tmp_path / name)


def test_a_training_row_never_holds_the_review_that_it_asks_for(sample_data, reader):
    tokenizer = reader[1]
    mixture = TaskMixture(sample_data, 40, ratio=(1, 1, 1, 0), history="decoder", tokenizer=tokenizer)
    for step in range(5):
        mixture.rows(step)
    assert len(mixture._known) > 50
    for (_, index), known in mixture._known.items():
        rows = np.concatenate(known)
        assert not (tokenizer.evidence.rows["review"][rows] == index).any()
    # Without that rule the review would be there.
    (task, index), _ = next(iter(mixture._known.items()))
    texts = sample_data.texts["train"]
    known = retrieve(tokenizer.evidence, tokenizer, task, texts.user[index], texts.item[index])
    assert (tokenizer.evidence.rows["review"][np.concatenate(known)] == index).any()


def test_what_user_and_item_have_in_common_comes_first(tokenizer):
    table = EvidenceTable.build(
        [
            (1, 9, 0, "user_preference", "something quiet for the night"),
            (1, 8, 1, "user_preference", "handles that stay cool"),
            (2, 5, 2, "item_attributes", "the lid is tight"),
            (3, 5, 3, "item_attributes", "the handles stay cool"),
            (4, 5, 4, "item_attributes", "a large kettle"),
        ]
    )
    known = retrieve(table, tokenizer, "item_attributes", 1, 5)
    assert (
        table.text(known.item[0]) == "the handles stay cool" and table.text(known.user[0]) == "handles that stay cool"
    )
    assert known.candidates.tolist() == known.item.tolist()
    # A visitor is known by the buyers of what lies in the basket.
    visitor = retrieve(table, tokenizer, "item_attributes", None, 5, history=[8])
    assert table.texts(visitor.user) == ["handles that stay cool"]
    asked = prompt(table, BARE["explanation"], known, 1, 5)
    assert asked.startswith(
        "user_1 item_5 : handles that stay cool something quiet for the night / the handles stay cool"
    )


def test_a_review_cannot_name_an_item_of_ours(tokenizer):
    table = EvidenceTable.build([(2, 5, 0, "explanation", "Better than item_7 and user_3 says so")])
    asked = prompt(table, BARE["explanation"], retrieve(table, tokenizer, "explanation", 1, 5), 1, 5)
    assert max(tokenizer(asked)["whole_word_ids"]) == 2  # the user and the item that are asked about


def test_support_is_what_others_say_too(reader):
    model, tokenizer = reader
    tokenizer.evidence = EvidenceTable.build(
        [
            (1, 5, 0, "explanation", "the lid is tight"),
            (1, 5, 0, "item_attributes", "a tight lid"),
            (2, 5, 1, "explanation", "the lid is heavy"),
            (3, 6, 2, "user_preference", "something heavy"),
        ]
    )
    (found,) = weigh(model, tokenizer, [Question(3, 5)], "explanation", ["evidence"])
    by_text = dict(zip(found.texts, zip(found.support, found.match)))
    # "tight" is said by its own review alone, "lid" by the other one too; "heavy" by nobody else, but by the user.
    tight, heavy = by_text["the lid is tight"], by_text["the lid is heavy"]
    assert 0 < tight[0] < 1 and tight[1] == 0
    assert 0 < heavy[0] < 1 and 0 < heavy[1] < 1
    weights, ((the_lid, _),) = tokenizer.evidence.weights(tokenizer), [distinct_pieces(tokenizer, ["the lid is", "x"])]
    said = distinct_pieces(tokenizer, ["the lid is tight"])[0]
    assert tight[0] == pytest.approx(weights[the_lid].sum() / weights[said].sum())


def test_sentences_are_scored_as_the_model_would_have_written_them(model, tokenizer):
    texts = ["a tight lid", "the handles stay cool and it is large", "x"]
    tokens = tokenizer(texts)["input_ids"]
    asked = ["user_1 item_5", "user_2 item_3 : the lid"]
    with torch.inference_mode():
        for rows, states, mask in model.encoded_prompts(tokenizer, "explanation", asked):
            found = score_sentences(model, TreeDecoder(model, states, mask, 21), [tokens[: 2 + row] for row in rows])
            for row, scores in zip(rows, found):
                for sentence, score in zip(tokens, scores):
                    batch = tokenizer([asked[row]], return_tensors="pt")
                    loss = model(**batch, task_ids=torch.tensor([0]), labels=torch.tensor([sentence])).loss
                    assert score == pytest.approx(-float(loss), abs=1e-4)
                assert len(scores) == 2 + row
    assert TASKS[0] == "explanation"


@pytest.mark.parametrize("no_repeat", [0, 2, 3])
def test_sentences_are_those_of_generate(model, tokenizer, no_repeat):
    """The beams of transformers, also where no few tokens in a row may come again."""
    asked = ["user_1 item_5", "user_7 item_3 : the lid is tight / a tight lid", "item_9"]
    with torch.inference_mode():
        for rows, states, mask in model.encoded_prompts(tokenizer, "explanation", asked):
            decoder = TreeDecoder(model, states, mask, 16)
            for row, beams in zip(rows, write(model, decoder, 5, 6, 16, no_repeat)):
                expected = model.generate(
                    **tokenizer([asked[row]], return_tensors="pt"),
                    task_ids=torch.tensor([0]),
                    num_beams=5,
                    num_return_sequences=5,
                    min_length=6,
                    max_length=16,
                    early_stopping=True,
                    no_repeat_ngram_size=no_repeat,
                )
                texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
                assert texts == tokenizer.batch_decode([tokens for tokens, _ in beams], skip_special_tokens=True)
                for tokens, _ in beams:
                    runs = [tuple(tokens[place : place + 3]) for place in range(len(tokens) - 2)]
                    assert not no_repeat or len(set(runs)) == len(runs)


def test_an_explanation_says_what_it_rests_on(reader, sample_data):
    model, tokenizer = reader
    user, item = known_pair(sample_data)
    asked = {"internal_ids": True, "return_evidence": True}
    quoted = model.explain(tokenizer, user, item, candidates="evidence", **asked)
    assert isinstance(quoted, Explanation) and quoted.source == "evidence" and 0 <= quoted.support <= 1
    first, *_ = quoted.evidence
    assert first.text == quoted.text and first.about == "item" and first.kind == "explanation"
    texts = sample_data.texts["train"]
    assert texts.item[first.review] == item and texts.explanation[first.review] == quoted.text
    assert {one.about for one in quoted.evidence} == {"item", "user"}
    written = model.explain(tokenizer, user, item, candidates="beams", **asked)
    assert written.source == "beams" and written.text != quoted.text
    either = model.explain(tokenizer, user, item, **asked)
    assert either in (quoted, written)
    assert model.explain(tokenizer, user, item, internal_ids=True) == either.text
    # With no weight the most likely is taken, with all weight what is supported and matches.
    (found,) = weigh(model, tokenizer, [Question(user, item)], "explanation")
    assert either.text == found.texts[found.likelihood.argmax()]
    model.config.evidence_weight = 1e6
    best = found.texts[found.worth().argmax()]
    assert model.explain(tokenizer, user, item, **asked).text == best != either.text


def test_the_choice_weighs_likelihood_and_worth():
    likelihood, support, match = np.array([-2.0, -1.5, -1.0]), np.array([1.0, 0.2, 1.0]), np.array([0.0, 0.3, 1.0])
    content = np.array([1.0, 1.0, 0.0])  # the third says nothing, which everybody supports
    found = Candidates(["a", "b", "c"], [3, 8, -1], likelihood, support, match, content, None)
    assert [choose(found, weight) for weight in (0, 0.8, 1.2)] == [2, 2, 0]
    assert choose(found, 0, "evidence") == 1 and choose(found, 0, "beams") == 2
    # What the model writes has to be supported by half, unless nothing is.
    untrue = found._replace(support=np.array([1.0, 0.2, 0.4]), match=np.array([0.0, 0.3, 2.0]), content=np.ones(3))
    assert untrue.worth().argmax() == 2
    assert choose(untrue, 1.0) == 0 and choose(untrue, 1.0, "beams") == 2 and choose(untrue, 0) == 2
    assert choose(untrue, 1.0, voice="user_preference") == 2  # which is true of the user
    nothing = np.array([])
    assert choose(Candidates([], [], nothing, nothing, nothing, nothing, None), 1.0) is None


def test_what_every_sentence_says_is_worth_little(reader, sample_data):
    """General praise is in everybody's reviews, so it is supported; what tells an item from others counts."""
    model, tokenizer = reader
    praise = [f"this is a great choice, {word}" for word in "really truly simply just again".split()]
    said = ["the lid is tight", "the lid is so tight", *praise]
    tokenizer.evidence = EvidenceTable.build([(2, 1, row, "explanation", text) for row, text in enumerate(said)])
    (found,) = weigh(model, tokenizer, [Question(1, 1)], "explanation", ["evidence"])
    assert found.texts[found.worth().argmax()] == "the lid is tight" and found.support.max() == pytest.approx(1)
    (alone,) = weigh(model, tokenizer, [Question(1, 1)], "explanation", num_beams=1, min_length=2)
    assert len(alone.texts) == len(found.texts) + 1 and alone.rows[-1] == -1
    assert (alone.content > 0).all() and (alone.content < 1).all()


def test_three_voices_lists_and_a_visitor(reader, sample_data):
    model, tokenizer = reader
    user, item = known_pair(sample_data)
    table = tokenizer.evidence
    voices = ["explanation", "user_preference", "item_attributes"]
    asked = {"internal_ids": True, "candidates": "evidence"}
    one = model.explain(tokenizer, user, item, voice=voices, **asked)
    assert list(one) == voices and all(isinstance(text, str) for text in one.values())
    assert one["user_preference"] in table.texts(table.of("user", [user], ["user_preference"]))
    assert one["item_attributes"] in table.texts(table.of("item", [item], ["item_attributes", "catalog"]))
    two = model.explain(tokenizer, [user, user], [item, item], voice=voices, **asked)
    assert two == [one, one]
    visitor = model.explain(tokenizer, item=item, history=[1, 2, 3], voice="user_preference", **asked)
    assert visitor in table.texts(table.of("item", [1, 2, 3], ["user_preference"]))
    several = model.explain(
        tokenizer, item=[item, item], history=[[1, 2, 3], [1, 2, 3]], voice="user_preference", **asked
    )
    assert several == [visitor, visitor]


def test_nothing_known_is_said_to_be_so(reader, sample_data):
    model, tokenizer = reader
    user, item = known_pair(sample_data)
    tokenizer.evidence = EvidenceTable.build([(user, item, 0, "explanation", "the lid is tight")])
    other = item % sample_data.num_items + 1
    found = model.explain(tokenizer, [user, user], [item, other], internal_ids=True, return_evidence=True)
    assert found[0].text and found[1] == Explanation(None, None, 0.0, ())
    assert model.explain(tokenizer, user, other, internal_ids=True) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": 1, "item": 1, "voice": "poem"}, "voice 'poem': take one of explanation, item_attributes"),
        ({"user": 1, "item": 1, "candidates": "some"}, "candidates 'some': take evidence, beams or all"),
        ({"user": 1}, "needs an item"),
        ({"item": [1, 2], "history": [[1]]}, "2 items but 1 histories"),
    ],
)
def test_what_cannot_be_explained_is_one_line(reader, settings, message):
    with pytest.raises(ValueError, match=message):
        reader[0].explain(reader[1], internal_ids=True, **settings)


def test_without_evidence_a_user_is_needed(model, tokenizer):
    with pytest.raises(ValueError, match="give user=…, or a history to a model with evidence"):
        model.explain(tokenizer, item=1, history=[2], internal_ids=True)
    with pytest.raises(ValueError, match="carries no evidence: take beams"):
        model.explain(tokenizer, 1, 1, candidates="evidence", internal_ids=True)


def test_evidence_travels_with_the_checkpoint(reader, sample_data, tmp_path):
    model, tokenizer = reader
    user, item = known_pair(sample_data)
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "catalog_evidence.npz").is_file()
    again = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval()
    words = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    asked = {"internal_ids": True, "return_evidence": True}
    assert again.explain(words, user, item, **asked) == tuple(model.explain(tokenizer, user, item, **asked))


def test_pieces_are_read_without_case(tokenizer):
    one, other = distinct_pieces(tokenizer, ["The Lid lid", "the lid"])
    assert one.tolist() == other.tolist() and len(set(one.tolist())) == len(one)
