"""Histories in the decoder: recommend and rank against plain `forward`, for ids of several pieces and of one each."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_rdrec import TASKS, RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer
from modeling_rdrec.history import decoder_prefix
from modeling_rdrec.transitions import STEP_APART, WINDOW, Transitions
from rdrec.tasks.vocabulary import train_tokenizer


ITEMS = 150
TINY = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "history": "decoder"}
HISTORIES = [["B3", "B123", "B45"], [], ["B7", "B7"], ["B12", "B1", "B120", "B15"]]
TEXTS = ["a sturdy strap of red leather", "a soft red lid", "a kettle with a sturdy handle"]
SEQUENCES = [[3, 123, 45, 7], [7, 12, 7, 120], [45, 7], [1, 120, 15, 3]]


def catalog(tokenizer, count=ITEMS):
    tokenizer.set_catalog(user=[f"u{n}" for n in range(1, 6)], item=[f"B{n}" for n in range(1, count + 1)])
    return tokenizer


def new_model(tokenizer, **settings):
    """An untrained model whose scores differ, also by whole words."""
    torch.manual_seed(4)
    model = RDRecForConditionalGeneration(RDRecConfig(vocab_size=len(tokenizer), **{**TINY, **settings})).eval()
    for parameter in model.decoder.parameters():
        if parameter is not model.shared.weight:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def spelled(mixed_tokenizer):
    """Ids of one to five pieces."""
    tokenizer = catalog(mixed_tokenizer)
    return new_model(tokenizer), tokenizer


@pytest.fixture
def whole():
    """Ids that are one piece each, with counted transitions and texts."""
    tokenizer = catalog(train_tokenizer(TEXTS * 5, vocab_size=1000, num_items=ITEMS))
    tokenizer.transitions = Transitions.count([np.array(row) for row in SEQUENCES], ITEMS)
    tokenizer.item_pieces = np.array(sorted({piece for row in tokenizer.text_pieces(TEXTS) for piece in row}))
    return new_model(tokenizer, ids_are_pieces=True, reads_users=False), tokenizer


@torch.no_grad()
def brute_force(model, tokenizer, history, prior=None):
    """Score of every item of the catalog: plain `forward` over the history and the item, as its tokens are written.

    The tokens are those of the tokenizer itself, each id followed by </s> where ids have several pieces.
    """
    pieces = model.config.ids_are_pieces
    items = range(1, tokenizer.num_ids("item") + 1)
    prompt = tokenizer([""], return_tensors="pt")
    task_ids = torch.tensor([TASKS.index("sequential")])

    def written(item):
        ids = tokenizer(str(item))["input_ids"]
        return ids[:-1] if pieces else ids

    among = torch.tensor(sorted({token for item in items for token in written(item)}))
    column = {int(token): place for place, token in enumerate(among)}
    read = [tokenizer.to_id("item", item) for item in history][-model.config.max_history :]
    scores = {}
    for item in [None] if pieces else items:
        tokens, marks = [0], [0]
        for number, one in enumerate([*read, *([] if item is None else [item])], 1):
            ids = written(one)
            tokens += ids
            marks += [0] * len(ids) if pieces else [number] * (len(ids) - 1) + [0]
        first = len(tokens) - (0 if item is None else len(written(item)))
        marks = None if pieces else torch.tensor([marks])
        outputs = model(
            **prompt, task_ids=task_ids, decoder_input_ids=torch.tensor([tokens]), decoder_whole_word_ids=marks
        )
        logits = outputs.logits[0][:, among]
        if item is None:
            if prior is not None:
                logits = logits + prior
            last = logits[-1].log_softmax(0)
            return {one: float(last[column[written(one)[0]]]) for one in items}
        steps = logits.log_softmax(1)
        scores[item] = sum(float(steps[place - 1, column[tokens[place]]]) for place in range(first, len(tokens)))
    return scores


def best(scores, history, k):
    ranked = sorted((-score, item) for item, score in scores.items() if f"B{item}" not in history)[:k]
    return [f"B{item}" for _, item in ranked], [-score for score, _ in ranked]


def same(answer, items, scores):
    assert answer.items == items
    assert answer.scores == pytest.approx(scores, abs=2e-5)


def plain_prior(model, history):
    """w * log(count + o), the counts taken one by one: what followed the last ten items, each step back 0.7 of the one
    after it, up to three steps apart."""
    counts = np.zeros(ITEMS)
    numbers = [int(item[1:]) for item in history][-10:]
    for back, item in enumerate(reversed(numbers)):
        for row in SEQUENCES:
            for place, a in enumerate(row):
                for apart, b in enumerate(row[place + 1 : place + 1 + WINDOW]):
                    counts[b - 1] += 0.7**back * STEP_APART**apart * (a == item)
    return torch.from_numpy(model.config.prior_weight * np.log(counts + model.config.prior_offset)).float()


# --- the same as plain forward ---------------------------------------------------------------------------------------


def test_ids_of_several_pieces_are_scored_as_forward_does(spelled):
    model, tokenizer = spelled
    proven = model.recommend(tokenizer, HISTORIES, k=7, exact=True)
    wide = model.recommend(tokenizer, HISTORIES, k=7, num_beams=ITEMS)
    candidates = [["B5", "B12", "B123"], ["B1", "B2"], ["B150", "B15", "B1"], ["B7"]]
    ranked = model.rank(tokenizer, candidates, history=HISTORIES)
    for place, history in enumerate(HISTORIES):
        scores = brute_force(model, tokenizer, history)
        wanted = best(scores, history, 7)
        same(proven[place], *wanted)
        same(wide[place], *wanted)
        same(ranked[place], *best({int(item[1:]): scores[int(item[1:])] for item in candidates[place]}, [], 9))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_ids_of_one_piece_are_scored_as_forward_does(whole, weight):
    model, tokenizer = whole
    model.config.prior_weight, model.config.prior_offset = weight, 0.1
    recommended = model.recommend(tokenizer, HISTORIES, k=7)
    ranked = model.rank(tokenizer, [["B12", "B7", "B123", "B2"]] * len(HISTORIES), history=HISTORIES)
    for place, history in enumerate(HISTORIES):
        scores = brute_force(model, tokenizer, history, plain_prior(model, history) if weight else None)
        same(recommended[place], *best(scores, history, 7))
        same(ranked[place], *best({n: scores[n] for n in (12, 7, 123, 2)}, [], 9))
    without = model.recommend(tokenizer, HISTORIES, k=7, prior=False)
    same(without[0], *best(brute_force(model, tokenizer, HISTORIES[0]), HISTORIES[0], 7))
    assert (without[0].scores == recommended[0].scores) == (weight == 0)


@pytest.mark.parametrize("kind", ["spelled", "whole"])
@pytest.mark.parametrize("history", HISTORIES, ids=len)
def test_generate_gives_what_recommend_gives(request, kind, history):
    model, tokenizer = request.getfixturevalue(kind)
    model.config.prior_weight, model.config.prior_offset = (0.7, 0.1) if kind == "whole" else (0.0, 1.0)
    prefix = model.decoder_inputs(tokenizer, history)
    output = model.generate(
        **tokenizer([""], return_tensors="pt"),
        task_ids=torch.tensor([TASKS.index("sequential")]),
        decoder_input_ids=prefix,
        logits_processor=[model.logits_processor(tokenizer, history, num_beams=20, exclude=["B9"])],
        num_beams=20,
        num_return_sequences=5,
        max_new_tokens=1 if kind == "whole" else tokenizer.catalog_trie().longest,
        early_stopping="never",
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    written = tokenizer.batch_decode(output.sequences[:, prefix.shape[1] :], skip_special_tokens=True)
    wanted = model.recommend(tokenizer, history, k=5, num_beams=20, exclude=["B9"])
    same(wanted, [f"B{number.strip()}" for number in written], output.sequences_scores.tolist())


def test_whole_word_marks_matter_where_ids_have_several_pieces(spelled):
    model, tokenizer = spelled
    marked = model.recommend(tokenizer, HISTORIES[0], k=5, exact=True)
    with torch.no_grad():
        model.whole_word_embeddings.weight[1:].zero_()
    assert model.recommend(tokenizer, HISTORIES[0], k=5, exact=True).scores != pytest.approx(marked.scores, abs=1e-3)


@pytest.mark.parametrize("kind", ["spelled", "whole"])
def test_the_batch_a_query_stands_in_changes_nothing(request, kind, monkeypatch):
    model, tokenizer = request.getfixturevalue(kind)
    model.config.prior_weight = 0.5 if kind == "whole" else 0.0
    candidates = [["B9", "B8", "B120"], ["B1"], ["B2", "B20"], [f"B{n}" for n in range(20, 60)]]

    def ask(places):
        return [
            *model.recommend(tokenizer, [HISTORIES[place] for place in places], k=6),
            *model.rank(
                tokenizer, [candidates[place] for place in places], history=[HISTORIES[place] for place in places]
            ),
        ]

    together = ask(range(4))
    backwards = [answer for half in (ask([3, 2, 1, 0])[:4][::-1], ask([3, 2, 1, 0])[4:][::-1]) for answer in half]
    alone = [answer for which in (0, 1) for place in range(4) for answer in [ask([place])[which]]]
    monkeypatch.setattr("modeling_rdrec.generation_rdrec.POSITIONS_A_BATCH", 1)
    monkeypatch.setattr("modeling_rdrec.generation_rdrec.SCORES_AT_ONCE", 1)
    for others in (backwards, alone, ask(range(4))):
        for one, other in zip(together, others, strict=True):
            same(one, *other)
    single = model.recommend(tokenizer, HISTORIES[0], k=6)
    same(single, *together[0])


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_users_count_only_where_the_model_reads_them(spelled):
    model, tokenizer = spelled
    nobody = model.recommend(tokenizer, ["B3"], k=3)
    assert model.recommend(tokenizer, ["B3"], user="u2", k=3).scores != nobody.scores
    model.config.reads_users = False
    assert model.recommend(tokenizer, ["B3"], user="u2", k=3) == nobody
    with pytest.raises(ValueError, match="unknown user 'u9'"):
        model.recommend(tokenizer, ["B3"], user="u9")


@pytest.mark.parametrize("kind", ["spelled", "whole"])
def test_long_and_empty_histories_and_what_is_excluded(request, kind):
    model, tokenizer = request.getfixturevalue(kind)
    model.config.max_history = 3
    # The latest are read; items that are read no more are not recommended either.
    answer = model.recommend(tokenizer, ["B100", "B101", *HISTORIES[0]], k=ITEMS, exact=True)
    read = model.recommend(tokenizer, HISTORIES[0], k=ITEMS, exact=True)
    kept = [place for place, item in enumerate(read.items) if item not in ("B100", "B101")]
    same(answer, [read.items[place] for place in kept], [read.scores[place] for place in kept])
    for count in (0, 2):
        beyond = model.recommend(tokenizer, [f"B{n}" for n in range(1, count + 1)], k=10_000)
        assert sorted(beyond.items) == sorted(f"B{n}" for n in range(count + 1, ITEMS + 1))
        assert beyond.scores == sorted(beyond.scores, reverse=True)
    everything = [f"B{n}" for n in range(1, ITEMS + 1)]
    assert model.recommend(tokenizer, ["B1"], exclude=everything) == ([], [])
    plain = model.recommend(tokenizer, ["B1"], k=6)
    unknown = model.recommend(tokenizer, ["B1"], k=5, exclude=["gone", 3.5e9, plain.items[0]])
    same(unknown, plain.items[1:], plain.scores[1:])
    several = model.recommend(tokenizer, [["B1"], ["B1"]], k=5, exclude=[["gone"], plain.items[:1]])
    assert several[0].items == plain.items[:5] and several[1].items == plain.items[1:]


@pytest.mark.parametrize("kind", ["spelled", "whole"])
@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("recommend", {"history": ["B1", "B151"]}, "^unknown item 'B151': it is not in this checkpoint's catalog"),
        ("recommend", {"history": "B1"}, "^'B1': give a list of item ids"),
        ("recommend", {"history": [["B1"], "B2"]}, "^item 1 stands among lists"),
        ("recommend", {"history": [["B1"], ["B2"]], "user": "u1"}, "^one user goes with one list"),
        ("recommend", {"history": [["B1"], ["B2"]], "exclude": [["B1"]]}, "^1 lists to exclude but 2 histories"),
        ("recommend", {"history": ["B1"], "k": 0}, "^k 0: give 1 or more"),
        ("rank", {"candidates": []}, "^query 0 has no candidates"),
        ("rank", {"candidates": [["B1"]], "history": ["B1"]}, "^1 candidate lists but 1 histories"),
        ("rank", {"candidates": ["B1"], "history": ["B0"]}, "^unknown item 'B0'"),
        ("logits_processor", {"history": [["B1"], ["B2", "B3"]]}, "^generate.. reads histories of equal lengths"),
    ],
)
def test_bad_input_is_one_line(request, kind, method, arguments, message):
    model, tokenizer = request.getfixturevalue(kind)
    with pytest.raises(ValueError, match=message) as refusal:
        getattr(model, method)(tokenizer, **arguments)
    assert "\n" not in str(refusal.value)


def test_decoder_inputs_are_padded_on_the_right(spelled):
    model, tokenizer = spelled
    inputs = model.decoder_inputs(tokenizer, [["B3"], ["B12", "B45"]])
    one, two = (tokenizer(str(number))["input_ids"] for number in (12, 45))
    assert inputs[1].tolist() == [0, *one, *two]
    three = tokenizer("3")["input_ids"]
    assert inputs[0].tolist() == [0, *three, *[0] * (len(one) + len(two) - len(three))]
    prefix = decoder_prefix(tokenizer.catalog_trie(), [[3], [12, 45]], model.config)
    assert prefix.whole_word_ids[1].tolist() == [0, *[1] * (len(one) - 1), 0, *[2] * (len(two) - 1), 0]
    assert prefix.lengths.tolist() == [1 + len(three), 1 + len(one) + len(two)]


# --- new items -------------------------------------------------------------------------------------------------------


def test_new_items_are_recommended_and_saved(whole, tmp_path):
    model, tokenizer = whole
    model.config.prior_weight, model.config.prior_offset = 0.5, 0.1
    before = model.rank(tokenizer, ["B1", "B2", "B3"], history=["B7"], prior=False)
    grown, larger = model.add_items(tokenizer, {"NEW1": TEXTS[2], "NEW2": "red leather"})
    assert grown is model and larger.num_ids("item") == ITEMS + 2 and tokenizer.num_ids("item") == ITEMS
    table = model.shared.weight
    pieces = tokenizer.text_pieces(["red leather"])[0]
    token = larger(str(ITEMS + 2))["input_ids"][0]
    torch.testing.assert_close(table[token], table[pieces].sum(0) / len(pieces) ** 0.5)
    everything = model.recommend(larger, ["B7"], k=ITEMS + 2)
    assert {"NEW1", "NEW2"} <= set(everything.items)
    score = dict(zip(*everything))["NEW1"]
    after = model.rank(larger, ["B1", "B2", "B3"], history=["B7"], prior=False)
    assert after.items == before.items  # the new ones take a share of probability from all alike
    # It is expected after the item whose vector is the most similar one.
    known = table[[larger(str(item))["input_ids"][0] for item in range(1, ITEMS + 1)]]
    nearest = 1 + int(torch.cosine_similarity(known, table[token], dim=1).argmax())
    assert larger.transitions.num_items == ITEMS + 2 and tokenizer.transitions.num_items == ITEMS
    assert larger.transitions.weighted([[nearest]])[0, ITEMS + 1] > 0
    model.save_pretrained(tmp_path)
    larger.save_pretrained(tmp_path)
    again = RDRecForConditionalGeneration.from_pretrained(tmp_path).eval()
    loaded = RDRecTokenizer.from_pretrained(tmp_path)
    assert loaded.catalog == larger.catalog
    same(again.recommend(loaded, ["B7"], k=ITEMS + 2), *everything)
    assert dict(zip(*again.rank(loaded, ["NEW1"], history=["B7"])))["NEW1"] == pytest.approx(score, abs=1e-5)
    # A new item is history, too, and more items can follow.
    assert "NEW1" not in again.recommend(loaded, ["B7", "NEW1"], k=ITEMS + 2).items
    _, third = again.add_items(loaded, {"NEW3": TEXTS[0]})
    assert "NEW3" in again.recommend(third, ["NEW1"], k=ITEMS + 3).items


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"NEW": "ззз"}, "^item 'NEW': no piece of its text is known to this model: give other words"),
        ({"NEW": ""}, "^item 'NEW': no piece of its text is known"),
        ({"B3": TEXTS[0]}, "^item 'B3' is in the catalog already"),
    ],
)
def test_items_that_cannot_be_added_are_named_and_change_nothing(whole, texts, message):
    model, tokenizer = whole
    weights = model.shared.weight.clone()
    with pytest.raises(ValueError, match=message):
        model.add_items(tokenizer, {"OTHER": TEXTS[1], **texts})
    assert torch.equal(model.shared.weight, weights) and tokenizer.num_ids("item") == ITEMS
    _, larger = model.add_items(tokenizer, {"OTHER": TEXTS[1]})
    with pytest.raises(ValueError, match="'OTHER' is in the catalog already"):
        model.add_items(larger, {"OTHER": TEXTS[1]})


def test_models_that_can_add_no_items_say_so(spelled, whole):
    model, tokenizer = whole
    tokenizer.item_pieces = None
    with pytest.raises(ValueError, match="items were trained without texts: train it with item_text"):
        model.add_items(tokenizer, {"NEW": TEXTS[0]})
    model, tokenizer = spelled
    with pytest.raises(ValueError, match="add_items needs history='decoder' and ids that are pieces"):
        model.add_items(tokenizer, {"NEW": TEXTS[0]})


# --- older checkpoints -----------------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_say_reads_histories_in_the_prompt(tiny_checkpoint, tmp_path, tokenizer, model):
    config = json.loads((tiny_checkpoint / "config.json").read_text())
    new = ("history", "ids_are_pieces", "reads_users", "prior_weight", "prior_offset", "fit_on", "max_history")
    older = {key: value for key, value in config.items() if key not in new}
    assert len(older) < len(config)
    (tmp_path / "config.json").write_text(json.dumps(older))
    (tmp_path / "model.safetensors").write_bytes((tiny_checkpoint / "model.safetensors").read_bytes())
    again = RDRecForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.config.history == "encoder" and again.config.fit_on == "train" and again.config.max_history == 20
    asked = {"history": [3, 4], "user": 5, "k": 5, "internal_ids": True}
    answer = again.recommend(tokenizer, **asked)
    assert answer == model.recommend(tokenizer, **asked)
    # As any T5 would score it, from the weights in the file: no whole-word row is added in the decoder.
    assert set(load_file(tmp_path / "model.safetensors")) >= {"whole_word_embeddings.weight"}
    batch = tokenizer(["user_5 item_3 item_4"], return_tensors="pt")
    for item, score in zip(*answer):
        labels = tokenizer([str(item)], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = again(**batch, task_ids=torch.tensor([1]), labels=labels).logits[0]
        assert float(logits.log_softmax(-1).gather(1, labels.T).sum()) == pytest.approx(score, abs=1e-5)
