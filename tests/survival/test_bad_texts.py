"""Texts, answers, ids and tables that nobody expects: a result, or one clear line, in bounded time."""

import json
import math
import time

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from modeling_rdrec import RDRecConfig
from modeling_rdrec.catalog_trie import CatalogTrie
from modeling_rdrec.evidence import EvidenceTable
from modeling_rdrec.history import decoder_prefix, marks_of
from rdrec.distillation.parse import parse_answer
from rdrec.tasks.metric import compute
from tests.survival.conftest import few


# Lone surrogates, too, and what is written from right to left, combined, without width or not a character at all.
ODD = st.text(max_size=60) | st.text(
    alphabet=st.sampled_from("\u202e\u200b\u0301\ud800\udfff\ufeff\x00\x1b\n\r א{}[]\"':,.123user_item_"), max_size=60
)
IDS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ODD
    | st.binary(max_size=8)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([10**5000, np.int64(3), np.float32("nan"), torch.tensor(2), torch.tensor([1, 2]), object()])
)


@few
@given(
    ODD, st.sampled_from(["stop", "length", "content_filter", ""]), st.sampled_from(["", "{", '{"user_preference": '])
)
@example('{"user_preference": 1, "item_attributes": {}}', "stop", "")
@example("1. " + "\ud800" * 30 + "\n2. \u202e", "stop", "")
@example("<think>" * 2000, "stop", "")
def test_an_answer_is_two_halves_or_none(text, finish, start):
    halves, flags = parse_answer(start + text, finish)
    assert len(halves) == 2 and all(half is None or half.strip() for half in halves)
    assert list(flags) == sorted(set(flags)) and (any(halves) or flags)


@pytest.mark.parametrize(
    "part", ["{", "[", '{"a":', "1. ", "<think>", "</think>", '"', "\\", "User preference:", "- ", "a. ", "```json"]
)
def test_a_long_answer_is_read_in_the_time_of_its_length(part):
    """Twice the letters in about twice the seconds of the processor, and never a recursion without end."""
    seconds = []
    for letters in (100_000, 800_000):
        text, start = part * (letters // len(part)), time.process_time()
        parse_answer(text)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 16 * seconds[0] + 0.5


@few
@given(st.lists(ODD, min_size=1, max_size=4))
@example(["user_1 item_2 \ud800"])
@example(["item_" + "9" * 5000])
@example(["x" * 200_000])
def test_any_text_is_pieces_of_the_vocabulary(tokenizer, texts):
    try:
        encoded = tokenizer(texts)
    except ValueError as error:
        assert "\n" not in str(error) and "users and items" in str(error)
        return
    for ids, marks in zip(encoded["input_ids"], encoded["whole_word_ids"]):
        assert len(ids) == len(marks) and all(0 <= one < len(tokenizer) for one in ids)
        assert all(0 <= one < tokenizer.max_whole_words for one in marks)


@few
@given(st.sampled_from(["user", "item"]), IDS, st.booleans())
@example("user", 10**5000, False)
@example("item", 10**5000, True)
def test_any_id_is_known_or_refused_in_one_line(tokenizer, kind, key, internal):
    try:
        number = tokenizer.to_id(kind, key, internal)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(number, int) and 1 <= number <= tokenizer.num_ids(kind)
        assert internal or tokenizer.to_raw(kind, number) == str(int(key) if isinstance(key, float) else key).strip()


SEQUENCES = st.dictionaries(
    st.lists(st.integers(3, 9), min_size=1, max_size=4).map(tuple), st.just(None), min_size=1, max_size=30
).map(list)


def trie_of(sequences: list[tuple[int, ...]], numbers: list[int]) -> CatalogTrie:
    flat = np.array([token for row in sequences for token in row], dtype=np.int32)
    return CatalogTrie.from_tokens(flat, np.array([len(row) for row in sequences]), np.array(numbers))


@few
@given(SEQUENCES, st.integers(1, 10**6), st.integers(1, 50))
def test_a_trie_spells_what_it_was_made_of(sequences, first, step):
    numbers = list(range(first, first + step * len(sequences), step))
    trie = trie_of(sequences, numbers)
    tokens, lengths = trie.spell(np.array(numbers))
    assert lengths.tolist() == [len(row) for row in sequences]
    assert tokens.tolist() == [token for row in sequences for token in row]
    node = torch.zeros(len(sequences), dtype=torch.long)
    for depth in range(trie.longest - 1):  # the end of an answer is none of them
        going_on = torch.tensor([len(row) > depth for row in sequences])
        following = torch.tensor([row[depth] for row in sequences if len(row) > depth], dtype=torch.long)
        node[going_on] = trie.descend(node[going_on], following)
    assert trie.item[node].tolist() == numbers
    with pytest.raises(ValueError, match="is not in the catalog"):
        trie.spell(np.array([numbers[-1] + 1]))


@few
@given(SEQUENCES, st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_damaged_trie_is_refused_or_whole(tmp_path_factory, sequences, place, bytes_):
    path = tmp_path_factory.mktemp("trie") / "catalog_trie.npy"
    trie_of(sequences, list(range(1, len(sequences) + 1))).save(path)
    whole = bytearray(path.read_bytes())
    place %= len(whole)
    path.write_bytes(whole[:place] + bytes_)
    try:
        found = CatalogTrie.load(path)
    except ValueError as error:
        assert str(path) in str(error) and "it is built anew" in str(error)
    else:
        assert found.num_items == len(sequences), "only what is whole is read"


@few
@given(SEQUENCES, st.data())
def test_histories_of_any_length_stand_side_by_side(sequences, data):
    trie = trie_of(sequences, list(range(1, len(sequences) + 1)))
    items = st.lists(st.integers(1, len(sequences)), max_size=12)
    histories = data.draw(st.lists(items, min_size=1, max_size=6))
    config = RDRecConfig(ids_are_pieces=trie.longest == 2)
    together = decoder_prefix(trie, histories, config)
    for row, history in enumerate(histories):
        alone = decoder_prefix(trie, [history], config)
        length = int(together.lengths[row])
        assert length == int(alone.lengths[0]) == alone.input_ids.shape[1]
        for name in ("input_ids", "whole_word_ids"):
            assert torch.equal(getattr(together, name)[row, :length], getattr(alone, name)[0])
        assert (together.input_ids[row, length:] == config.pad_token_id).all()
        assert (together.whole_word_ids[row, length:] == 0).all()
    if not config.ids_are_pieces:
        assert torch.equal(marks_of(together.input_ids[:, 1:], config), together.whole_word_ids[:, 1:])


@few
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(-1, 9), ODD), max_size=12))
def test_evidence_of_any_sentences_is_read_as_it_was_saved(tmp_path_factory, sentences):
    table = EvidenceTable.build([(*one[:3], "explanation", one[3]) for one in sentences])
    path = tmp_path_factory.mktemp("evidence") / "catalog_evidence.npz"
    table.save(path)
    again = EvidenceTable.load(path)
    rows = range(len(table.rows))
    assert again.texts(rows) == table.texts(rows) and (again.rows == table.rows).all()
    assert len(table.rows) == sum(bool(one[3].strip()) for one in sentences)


@few
@given(st.lists(st.tuples(ODD, ODD, ODD), min_size=1, max_size=5))
@example([("", "", ""), ("\u200b", "\u200b", "")])
@example([("a " * 5000, "a " * 5000, "a")])
def test_texts_are_scored_from_0_to_100(rows):
    # Parquet and Arrow hold no lone surrogates, so no table of answers does.
    rows = [[text.encode("utf-8", "replace").decode() for text in row] for row in rows]
    predictions, references, features = zip(*rows)
    found = compute("explanation", predictions=list(predictions), references=list(references), features=list(features))
    assert all(0 <= value <= 100 + 1e-6 and math.isfinite(value) for value in found.values())
    json.dumps(found, allow_nan=False)


@few
@given(st.lists(st.tuples(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=12), st.integers(-5, 5)), min_size=1))
def test_rankings_are_scored_from_0_to_1(rows):
    predictions, references = zip(*rows)
    predictions = [list(dict.fromkeys(one)) for one in predictions]  # repeats raise the scores, as in the paper's code
    found = compute("ranking", predictions=predictions, references=list(references))
    assert all(0 <= value <= 1 + 1e-9 for value in found.values())
    assert found["hr@1"] <= found["hr@5"] <= found["hr@10"] and found["ndcg@1"] == found["hr@1"]
