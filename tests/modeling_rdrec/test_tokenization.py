"""Whole-word ids, their padding and their limits; the catalog that travels with the tokenizer."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from modeling_rdrec import RDRecTokenizer
from rdrec.tasks.vocabulary import train_tokenizer


def words_of(tokenizer, text):
    """The text pieces that each whole-word id covers."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    found = {}
    for number, (start, end) in zip(encoded["whole_word_ids"], encoded["offset_mapping"]):
        if number:
            low, high = found.get(number, (start, end))
            found[number] = (min(low, start), max(high, end))
    return {number: text[low:high] for number, (low, high) in found.items()}


def test_users_and_items_are_numbered_in_order_of_appearance(tokenizer):
    text = "What follows user_7 after item_12, item_345's twin and item_12?"
    assert words_of(tokenizer, text) == {1: "user_7", 2: "item_12", 3: "item_345", 4: "item_12"}


@pytest.mark.parametrize("text", ["superuser_7 items_3 item_ user_x", "no ids at all", ""])
def test_other_words_have_no_number(tokenizer, text):
    assert set(tokenizer(text)["whole_word_ids"]) <= {0}


def test_a_vocabulary_of_single_characters_works_too():
    characters = {piece: number for number, piece in enumerate(["<unk>", "<pad>", *"abcdeimprstu_0123456789 "])}
    backend = Tokenizer(models.WordLevel(characters, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = RDRecTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    assert tokenizer("user_1 item_23")["whole_word_ids"] == [1] * 6 + [0] + [2] * 7


def test_padding_in_a_batch_and_by_pad(tokenizer):
    texts = ["user_1 item_2 item_3", "user_4"]
    batch = tokenizer(texts, padding=True)
    assert len({len(row) for name in batch for row in batch[name]}) == 1
    assert tokenizer.pad([tokenizer(text) for text in texts])["whole_word_ids"] == batch["whole_word_ids"]
    left = tokenizer.pad([tokenizer(text) for text in texts], padding_side="left", return_tensors="pt")
    assert left["whole_word_ids"][1].tolist() == [0] * (left["input_ids"].shape[1] - 3) + [1, 1, 0]
    assert left["whole_word_ids"].shape == left["input_ids"].shape


def test_truncation_keeps_ids_in_step(tokenizer):
    text = "user_1 item_2 item_3 item_4"
    whole = tokenizer(text)
    cut = tokenizer(text, truncation=True, max_length=5)
    assert cut["whole_word_ids"] == [*whole["whole_word_ids"][:4], 0]
    tokenizer.truncation_side = "left"
    try:
        assert tokenizer(text, truncation=True, max_length=5)["whole_word_ids"] == [1, 1, 2, 2, 0]
    finally:
        tokenizer.truncation_side = "right"
        tokenizer(text, truncation=False)


def test_too_many_whole_words_say_what_to_shorten(tokenizer):
    text = " ".join(f"item_{n}" for n in range(1, 512))
    assert max(tokenizer(text)["whole_word_ids"]) == 511
    with pytest.raises(ValueError, match=r"text 1 has 512 users and items.*511: shorten the history"):
        tokenizer(["user_1", text + " item_9"])


def test_pairs_and_split_words_are_refused(tokenizer):
    with pytest.raises(ValueError, match="one string"):
        tokenizer("user_1", "item_2")
    with pytest.raises(ValueError, match="one string"):
        tokenizer(["user_1", "item_2"], is_split_into_words=True)


def test_catalog_round_trip(tiny_checkpoint, sample_data):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint, trust_remote_code=True)
    assert type(tokenizer).__name__ == "RDRecTokenizer" and type(tokenizer) is not RDRecTokenizer
    raw = sample_data.raw_ids["item"][41]
    assert tokenizer.to_id("item", raw) == 42 == tokenizer.to_id("item", 42, internal=True)
    assert tokenizer.to_raw("item", 42) == raw
    assert tokenizer.catalog == sample_data.raw_ids


@pytest.mark.parametrize("key", ["NOSUCHITEM", 0, 10_000_000])
def test_unknown_ids_are_named(tokenizer, key):
    with pytest.raises(ValueError, match=f"unknown item .*{key}"):
        tokenizer.to_id("item", key)


def test_a_vocabulary_with_items_writes_an_item_alike_in_prompts_and_answers():
    tokenizer = train_tokenizer(["a strap of 12 inches"], vocab_size=1000, num_users=9, num_items=400)

    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])

    assert pieces("user_7 item_345") == ["▁user_7", "▁item_", "▁345", "</s>"] and pieces("345") == ["▁345", "</s>"]
    assert tokenizer("user_7 item_345 item_3")["whole_word_ids"] == [1, 2, 2, 3, 3, 0]
    tokenizer.set_catalog(user=[], item=[f"B{n}" for n in range(1, 401)])
    assert tokenizer.catalog_trie().longest == 2


def test_trained_vocabulary_keeps_ids_short_and_texts_whole():
    texts = ["The strap holds well, don't worry!", "A strap of 12 inches (cheap & good)."] * 5
    tokenizer = train_tokenizer(texts, vocab_size=1300)
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert len(tokenizer("item_987")["input_ids"]) == 3  # "▁item_", "987", "</s>"
    assert len(tokenizer("98765")["input_ids"]) == 4
    assert train_tokenizer(texts, 1300).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
