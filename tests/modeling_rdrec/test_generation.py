"""recommend, rank and explain: exact where they say so, inside the catalog always, and defined on bad input."""

import copy

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration
from modeling_rdrec.catalog_trie import CatalogTrie
from modeling_rdrec.fast_linear import fast_linear
from modeling_rdrec.head import Head
from modeling_rdrec.prompts import BARE, fill
from modeling_rdrec.tree_decoder import TreeDecoder


ITEMS = 150
HISTORIES = [[3, 12, 120], [], list(range(1, 40))]
CANDIDATES = [[5, 12, 120, 150, 1], [7], [*range(30, 90)]]


@pytest.fixture
def words(mixed_tokenizer):
    mixed_tokenizer.set_catalog(user=[f"u{n}" for n in range(1, 6)], item=[f"i{n}" for n in range(1, ITEMS + 1)])
    return mixed_tokenizer


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def engine(request):
    """An untrained model of ids of several lengths, sharpened so that scores differ."""
    torch.manual_seed(3)
    config = RDRecConfig(
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        vocab_size=64,
        max_history=60,
        feed_forward_proj=request.param,
    )
    model = RDRecForConditionalGeneration(config).eval()
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def teacher_forced(model, tokenizer, task, text, items, length_penalty=0.0):
    """Score of each item, one forward pass of the whole model an item."""
    prompt = tokenizer([text], return_tensors="pt")
    scores = []
    for item in items:
        labels = tokenizer(str(item), return_tensors="pt")["input_ids"]
        logits = model(**prompt, task_ids=torch.tensor([task]), labels=labels).logits
        scores.append(float(logits[0].log_softmax(-1).gather(1, labels.T).sum()) / labels.shape[1] ** length_penalty)
    return np.array(scores)


def best(scores, items, k):
    order = np.argsort(-scores, kind="stable")[:k]
    return [items[place] for place in order], scores[order]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_rank_equals_scoring_one_by_one(engine, words, length_penalty):
    ranked = engine.rank(words, internal_ids=True, user=[1, 2, 3], candidates=CANDIDATES, length_penalty=length_penalty)
    for user, candidates, answer in zip([1, 2, 3], CANDIDATES, ranked):
        scores = teacher_forced(engine, words, 2, fill(BARE["topn"], user, candidates), candidates, length_penalty)
        items, wanted = best(scores, candidates, None)
        assert answer.items == items
        np.testing.assert_allclose(answer.scores, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_wide_beams_and_exact_search_equal_brute_force(engine, words, length_penalty):
    settings = {"user": [1, 2, 3], "history": HISTORIES, "k": 12, "length_penalty": length_penalty}
    wide = engine.recommend(words, internal_ids=True, num_beams=ITEMS, **settings)
    exact = engine.recommend(words, internal_ids=True, exact=True, **settings)
    for user, history, by_beams, proven in zip([1, 2, 3], HISTORIES, wide, exact):
        items = [item for item in range(1, ITEMS + 1) if item not in history]
        scores = teacher_forced(engine, words, 1, fill(BARE["sequential"], user, history), items, length_penalty)
        wanted, wanted_scores = best(scores, items, 12)
        for answer in (by_beams, proven):
            assert answer.items == wanted
            np.testing.assert_allclose(answer.scores, wanted_scores, atol=1e-5)


def test_exact_search_opens_nodes_in_parts(engine, words, monkeypatch):
    whole = engine.recommend(words, internal_ids=True, user=1, history=[3], k=30, exact=True)
    monkeypatch.setattr("modeling_rdrec.search.EXACT_WIDTH", 3)
    parts = engine.recommend(words, internal_ids=True, user=1, history=[3], k=30, exact=True)
    assert parts.items == whole.items and parts.scores == pytest.approx(whole.scores, abs=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("num_beams", [4, 10])
def test_generate_with_the_processor_equals_recommend(engine, words, length_penalty, num_beams):
    trie = words.catalog_trie()
    batch = words(
        [fill(BARE["sequential"], user, row) for user, row in zip([1, 2, 3], HISTORIES)],
        padding=True,
        return_tensors="pt",
    )
    output = engine.generate(
        **batch,
        task_ids=torch.ones(3, dtype=torch.long),
        logits_processor=LogitsProcessorList([trie.logits_processor(num_beams, HISTORIES)]),
        num_beams=num_beams,
        num_return_sequences=4,
        max_new_tokens=trie.longest,
        early_stopping="never",
        length_penalty=length_penalty,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    written = [int(text) for text in words.batch_decode(output.sequences, skip_special_tokens=True)]
    ours = engine.recommend(
        words,
        internal_ids=True,
        user=[1, 2, 3],
        history=HISTORIES,
        k=4,
        num_beams=num_beams,
        length_penalty=length_penalty,
    )
    assert [item for answer in ours for item in answer.items] == written
    scores = [score for answer in ours for score in answer.scores]
    assert scores == pytest.approx(output.sequences_scores.tolist(), abs=1e-5)


def test_generate_with_fewer_answers_than_beams_marks_what_is_none(engine, words):
    trie = CatalogTrie.build(words, [12, 120, 7])
    output = engine.generate(
        **words(["user_1"], return_tensors="pt"),
        task_ids=torch.tensor([1]),
        logits_processor=LogitsProcessorList([trie.logits_processor(6, [[7]])]),
        num_beams=6,
        num_return_sequences=6,
        max_new_tokens=trie.longest,
        early_stopping="never",
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = output.sequences_scores
    written = words.batch_decode(output.sequences[scores > -1e8], skip_special_tokens=True)
    assert sorted(map(int, written)) == [12, 120]


def test_always_k_answers_new_and_different(engine, words):
    for k in (1, 20, 111):
        answer = engine.recommend(words, internal_ids=True, user=2, history=HISTORIES[2], k=k)
        assert len(answer.items) == len(set(answer.items)) == k
        assert not set(answer.items) & set(HISTORIES[2]) and set(answer.items) <= set(range(1, ITEMS + 1))
        assert answer.scores == sorted(answer.scores, reverse=True)


def test_beams_do_not_die_where_nearly_all_is_bought(engine, words):
    history = [item for item in range(1, ITEMS + 1) if item not in (4, 45, 123)]
    for exact in (False, True):
        answer = engine.recommend(words, internal_ids=True, user=1, history=history, k=3, num_beams=3, exact=exact)
        assert sorted(answer.items) == [4, 45, 123]


def test_k_beyond_the_catalog_gives_all_there_is(engine, words):
    for exact in (False, True):
        answer = engine.recommend(words, internal_ids=True, user=1, history=[1, 2, 3], k=1000, exact=exact)
        assert sorted(answer.items) == list(range(4, ITEMS + 1))
        assert (
            engine.recommend(
                words, internal_ids=True, user=1, history=list(range(1, ITEMS + 1)), k=5, exact=exact
            ).items
            == []
        )


@pytest.mark.slow
def test_an_empty_history_is_a_prompt_of_the_user_alone(engine, words):
    answer = engine.recommend(words, internal_ids=True, user=4, history=[], k=5, exact=True)
    items = list(range(1, ITEMS + 1))
    assert answer.items == best(teacher_forced(engine, words, 1, "user_4", items), items, 5)[0]


def test_a_history_longer_than_the_table_keeps_the_most_recent(engine, words, monkeypatch):
    history = [*range(1, 101), *range(1, 31)]
    monkeypatch.setattr(engine.config, "max_whole_words", 22)
    with pytest.warns(UserWarning, match="a history of 130 items is longer .* the last 20 are read"):
        answer = engine.recommend(words, internal_ids=True, user=1, history=history, k=6, exact=True)
    prompt = engine.recommend(words, internal_ids=True, user=1, history=history[-20:], k=ITEMS, exact=True)
    wanted = [item for item in prompt.items if item not in history][:6]
    assert answer.items == wanted  # items that are read no more are still not recommended


def test_duplicate_candidates_count_once(engine, words):
    assert engine.rank(words, internal_ids=True, user=1, candidates=[5, 9, 5, 120, 9]) == engine.rank(
        words, internal_ids=True, user=1, candidates=[5, 9, 120]
    )


def test_candidates_of_equal_scores_are_ordered_by_id(engine, words, monkeypatch):
    monkeypatch.setattr(
        "modeling_rdrec.generation_rdrec.score_candidates", lambda *rest: [np.array([-1.0, -2.0, -1.0, -0.5, -1.0])]
    )
    assert engine.rank(words, internal_ids=True, user=1, candidates=[30, 4, 20, 50, 10]).items == [50, 10, 20, 30, 4]


def test_without_a_catalog_candidates_rank_and_a_trie_recommends(engine, words):
    wanted = engine.rank(words, internal_ids=True, user=1, candidates=[5, 9, 120])
    words.catalog = None
    assert engine.rank(words, internal_ids=True, user=1, candidates=[5, 9, 120]).items == wanted.items
    with pytest.raises(ValueError, match="no catalog.json.*give trie="):
        engine.recommend(words, internal_ids=True, user=1, history=[5])
    answer = engine.recommend(
        words, internal_ids=True, user=1, history=[5], k=9, trie=CatalogTrie.build(words, [5, 9, 120])
    )
    assert sorted(answer.items) == [9, 120]


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        (
            "recommend",
            {"user": 1, "history": [151]},
            "unknown item 151: internal ids of this checkpoint's catalog are 1..150",
        ),
        ("recommend", {"user": "nobody", "history": []}, "unknown user 'nobody'"),
        ("recommend", {"user": "nobody", "history": [], "internal_ids": False}, "unknown user 'nobody'"),
        (
            "recommend",
            {"history": ["i3"], "internal_ids": False},
            "this model reads the user .history='encoder'.: give user=",
        ),
        ("recommend", {"user": 1, "history": [], "k": 0}, "k 0: give 1 or more"),
        ("recommend", {"user": 1, "history": [], "length_penalty": -1.0}, "length_penalty -1.0: give 0"),
        ("rank", {"user": "u1", "candidates": ["i1", "i151"], "internal_ids": False}, "unknown item 'i151'"),
        ("rank", {"user": 1, "candidates": []}, "query 0 has no candidates"),
        (
            "rank",
            {"user": [1, 2], "candidates": [[1]]},
            "2 users but 1 lists of items|a list of users with a list of lists",
        ),
        ("rank", {"user": 1, "candidates": range(1, 60)}, "shorten the history or the candidate list"),
        ("explain", {"user": [1, 2], "item": 3}, "2 users but 1 items"),
    ],
)
def test_bad_input_is_named(engine, words, monkeypatch, method, arguments, message):
    monkeypatch.setattr(words, "max_whole_words", 50)
    with pytest.raises(ValueError, match=message):
        getattr(engine, method)(words, **{"internal_ids": True, **arguments})


def test_batches_change_nothing(engine, words, monkeypatch):
    users = [1, 2, 3]
    together = (
        engine.recommend(words, internal_ids=True, user=users, history=HISTORIES),
        engine.rank(words, internal_ids=True, user=users, candidates=CANDIDATES),
    )
    monkeypatch.setattr("modeling_rdrec.generation_rdrec.POSITIONS_A_BATCH", 1)
    alone = (
        engine.recommend(words, internal_ids=True, user=users, history=HISTORIES),
        engine.rank(words, internal_ids=True, user=users, candidates=CANDIDATES),
    )
    for some, others in zip(together, alone):
        assert [row.items for row in some] == [row.items for row in others]
        for row, other in zip(some, others):
            assert row.scores == pytest.approx(other.scores, abs=1e-5)


def test_raw_ids_are_given_back_to_those_who_ask_with_them(engine, words):
    number = engine.recommend(words, internal_ids=True, user=2, history=[3, 12], k=4)
    raw = engine.recommend(words, user="u2", history=["i3", "i12"], k=4)
    assert raw.items == [f"i{item}" for item in number.items] and raw.scores == number.scores


@torch.no_grad()
def test_the_tree_decoder_equals_forward(engine, words):
    """Two beams that part after the second token, decoded token by token and as a whole tree."""
    batch = words(["user_1 item_12 item_5", "user_2"], padding=True, return_tensors="pt")
    task_ids = torch.tensor([1, 1])
    left, right = [0, 5, 9, 7], [0, 5, 11, 12]
    states, mask = engine.encode(**batch, task_ids=task_ids)
    wanted = [
        engine(**batch, task_ids=task_ids, decoder_input_ids=torch.tensor([tokens] * 2)).logits.log_softmax(-1)
        for tokens in (left, right)
    ]
    head = Head(engine)
    by_step = TreeDecoder(engine, states.last_hidden_state, mask, height=4)
    at_once = TreeDecoder(engine, states.last_hidden_state, mask, height=4)
    steps = [([0], [0]), ([5], [0]), ([9, 11], [1, 1]), ([7, 12], [2, 3])]
    hidden = [by_step.extend(torch.tensor([tokens] * 2), torch.tensor([parents] * 2)) for tokens, parents in steps]
    tokens, parents = (sum(column, []) for column in zip(*steps))
    tree = at_once.extend(torch.tensor([tokens] * 2), torch.tensor([parents] * 2))
    torch.testing.assert_close(torch.cat(hidden, 1), tree, atol=1e-5, rtol=0)
    for places, logits in zip(([0, 1, 2, 4], [0, 1, 3, 5]), wanted):
        rows = tree[:, places].flatten(0, 1)
        ours = head.logits(rows) - head.normalizers(rows)[:, None]
        torch.testing.assert_close(ours.view_as(logits), logits, atol=1e-5, rtol=0)


def test_the_head_in_blocks_equals_the_head(engine, monkeypatch):
    monkeypatch.setattr("modeling_rdrec.head.BLOCK_ROWS", 4)
    monkeypatch.setattr("modeling_rdrec.head.BLOCK_COLUMNS", 10)
    hidden = torch.randn(11, engine.config.d_model, generator=torch.Generator().manual_seed(0)) * 5
    head = Head(engine)
    with torch.inference_mode():
        torch.testing.assert_close(head.normalizers(hidden), head.logits(hidden).logsumexp(1), atol=1e-5, rtol=1e-6)


def test_fast_linear_gives_the_same_and_leaves_training_alone(monkeypatch):
    linear = torch.nn.Linear(40, 30)
    states = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0))
    wanted = linear(states)
    with fast_linear():
        with torch.inference_mode():
            torch.testing.assert_close(linear(states), wanted, atol=1e-5, rtol=1e-5)
            assert linear(states[:0]).shape == (0, 5, 30)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert linear(states).dtype == torch.bfloat16
        linear(states).sum().backward()
    assert linear.weight.grad is not None
    monkeypatch.setattr("modeling_rdrec.fast_linear.works", lambda: False)
    with torch.inference_mode(), fast_linear():
        assert torch.equal(linear(states), wanted)


def test_bfloat16_autocast_stays_close(engine, words):
    exact = engine.rank(words, internal_ids=True, user=1, candidates=CANDIDATES[2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = engine.rank(words, internal_ids=True, user=1, candidates=CANDIDATES[2])
        beams = engine.recommend(words, internal_ids=True, user=1, history=[3], k=5)
    close = dict(zip(rough.items, rough.scores))
    assert max(abs(close[item] - score) for item, score in zip(*exact)) < 0.5
    assert len(beams.items) == 5


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3, "min_length": 2, "max_length": 9}, {"num_beams": 4, "min_length": 3}]
)
@pytest.mark.parametrize("eos_is_likely", [False, True])
def test_explain_writes_what_generate_does(engine, words, settings, eos_is_likely):
    users, items = [1, 2, 3, 4, 5], [3, 120, 7, 7, 45]
    batch = words(
        [fill(BARE["explanation"], user, [item]) for user, item in zip(users, items)], padding=True, return_tensors="pt"
    )
    settings = {"num_beams": 7, "min_length": 10, "max_length": 21, **settings}

    def generate(model):
        task_ids = torch.zeros(5, dtype=torch.long)
        return model.generate(**batch, task_ids=task_ids, early_stopping=True, length_penalty=1.0, **settings)

    output = generate(engine)
    if eos_is_likely:  # nearly as likely as the token that it likes best, so that sentences end where they may
        engine = copy.deepcopy(engine)
        weight = engine.lm_head.weight.detach().clone()
        weight[1] = 0.98 * weight[output[:, 1:].flatten().mode().values]
        engine.lm_head.weight = torch.nn.Parameter(weight)
        output = generate(engine)
    assert (output == 1).any() == eos_is_likely
    wanted = [text.strip() for text in words.batch_decode(output, skip_special_tokens=True)]
    assert engine.explain(words, internal_ids=True, user=users, item=items, **settings) == wanted


def test_explain_writes_a_sentence_for_each_pair(model, tokenizer):
    sentences = model.explain(tokenizer, user=[5, 6], item=[3, 4], internal_ids=True)
    assert len(sentences) == 2 and all(isinstance(sentence, str) for sentence in sentences)
    assert model.explain(tokenizer, user=5, item=3, internal_ids=True) == sentences[0]
