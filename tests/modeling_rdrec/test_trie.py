"""The catalog trie against a plain dictionary of prefixes: shape, look-ups, files, and what cannot be a catalog."""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from modeling_rdrec import RDRecTokenizer
from modeling_rdrec.catalog_trie import CatalogTrie
from tests.conftest import number_tokenizer


def prefixes(tokenizer, items):
    """Prefix of tokens -> items at or below it, and complete sequence -> item."""
    below, complete = {}, {}
    for item in items:
        tokens = tuple(tokenizer(str(item))["input_ids"][:-1])
        complete[tokens] = item
        for depth in range(len(tokens) + 1):
            below.setdefault(tokens[:depth], []).append(item)
    return below, complete


def walk(trie, tokens):
    node = torch.tensor([0])
    for token in tokens:
        node = trie.descend(node, torch.tensor([token]))
    return int(node)


@pytest.mark.slow
@pytest.mark.parametrize("items", [1, 9, 2345, [7, 12, 120, 121, 5, 99000]])
def test_every_prefix_is_a_node_with_its_items_and_children(mixed_tokenizer, items):
    trie = CatalogTrie.build(mixed_tokenizer, items)
    below, complete = prefixes(mixed_tokenizer, range(1, items + 1) if isinstance(items, int) else items)
    assert trie.num_nodes == len(below) and trie.num_items == len(complete)
    assert trie.longest == max(map(len, complete)) + 1
    for tokens, held in list(below.items())[:: max(1, len(below) // 300)]:
        node = walk(trie, tokens)
        assert trie.leaves[node] == len(held) and trie.item[node] == complete.get(tokens, 0)
        if tokens:
            assert trie.token[node] == tokens[-1]
            assert trie.parent(np.array([node])) == [walk(trie, tokens[:-1])]
        _, children = trie.children(torch.tensor([node]))
        following = sorted(
            {other[len(tokens)] for other in below if len(other) == len(tokens) + 1 and other[:-1] == tokens}
        )
        assert trie.token[children].tolist() == following
    assert trie.ends_of(list(complete.values())).tolist() == [walk(trie, tokens) for tokens in complete]
    used = sorted({token for tokens in complete for token in tokens} | {1})
    assert trie.vocabulary(1)[0].tolist() == used
    assert trie.vocabulary(1)[1][used].tolist() == list(range(len(used)))


def test_what_is_not_there_is_minus_one(mixed_tokenizer):
    trie = CatalogTrie.build(mixed_tokenizer, [7, 12, 120])
    assert trie.ends_of([7, 8, 120, 121, 10**9]).tolist()[1::2] == [-1, -1] and trie.ends_of([10**9]) == [-1]
    assert trie.descend(torch.tensor([0, -1]), torch.tensor([0, 5])).tolist() == [-1, -1]
    assert CatalogTrie.build(mixed_tokenizer, 5).ends_of([0, 6, -3]).tolist() == [-1, -1, -1]


def test_ids_in_one_text_are_written_as_ids_alone(mixed_tokenizer, monkeypatch):
    together = CatalogTrie.build(mixed_tokenizer, 3000)
    monkeypatch.setattr("modeling_rdrec.catalog_trie._splits_at_spaces", lambda backend: False)
    monkeypatch.setattr("modeling_rdrec.catalog_trie.CHUNK", 700)
    assert np.array_equal(CatalogTrie.build(mixed_tokenizer, 3000)._arrays, together._arrays)


def test_a_vocabulary_of_single_characters():
    pieces = {piece: number for number, piece in enumerate(["<unk>", "<pad>", *"0123456789"])}
    backend = Tokenizer(models.WordLevel(pieces, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = RDRecTokenizer(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    trie = CatalogTrie.build(tokenizer, 1234)
    assert trie.longest == 5 and trie.num_nodes == 1235
    assert trie.item[walk(trie, [pieces[digit] for digit in "907"])] == 907


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "at least one"),
        ([3, 0], "ids from 1"),
        ([3, 4, 3], "given twice"),
    ],
)
def test_bad_ids_are_named(mixed_tokenizer, items, message):
    with pytest.raises(ValueError, match=message):
        CatalogTrie.build(mixed_tokenizer, items)


def test_a_vocabulary_that_cannot_tell_ids_apart_is_named():
    tokenizer = number_tokenizer(["▁1", "1", "2"])
    assert CatalogTrie.build(tokenizer, [1, 11, 12, 121]).num_items == 4
    with pytest.raises(ValueError, match="items 13 and 14 are written with the same tokens"):
        CatalogTrie.build(tokenizer, [11, 13, 14])


def test_the_trie_travels_with_the_tokenizer_and_is_mapped(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = RDRecTokenizer.from_pretrained(tmp_path)
    trie = again.catalog_trie()
    assert isinstance(trie._arrays, np.memmap) and again.catalog_trie() is trie
    assert np.array_equal(trie._arrays, tokenizer.catalog_trie()._arrays)
    assert "catalog_trie" not in (tmp_path / "tokenizer_config.json").read_text()
    (tmp_path / "catalog_trie.npy").unlink()
    built = RDRecTokenizer.from_pretrained(tmp_path).catalog_trie()
    assert np.array_equal(built._arrays, trie._arrays)


def test_a_trie_of_another_catalog_or_no_trie_is_refused(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    catalog = json.loads((tmp_path / "catalog.json").read_text())
    catalog["item"].pop()
    (tmp_path / "catalog.json").write_text(json.dumps(catalog))
    with pytest.raises(ValueError, match="not the trie of this vocabulary and catalog.json"):
        RDRecTokenizer.from_pretrained(tmp_path).catalog_trie()
    for content in (b"", b"nonsense", (tmp_path / "catalog_trie.npy").read_bytes()[:200]):
        (tmp_path / "catalog_trie.npy").write_bytes(content)
        with pytest.raises(ValueError, match="no catalog trie"):
            RDRecTokenizer.from_pretrained(tmp_path).catalog_trie()
    np.save(tmp_path / "catalog_trie.npy", np.zeros((2, 3)))
    with pytest.raises(ValueError, match="no catalog trie"):
        RDRecTokenizer.from_pretrained(tmp_path).catalog_trie()


def test_a_trie_of_another_vocabulary_is_refused(mixed_tokenizer, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "one")
    mixed_tokenizer.set_catalog(user=["u"], item=[f"i{n}" for n in range(tokenizer.num_ids("item"))])
    mixed_tokenizer.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "catalog_trie.npy", tmp_path / "one")
    with pytest.raises(ValueError, match="not the trie of this vocabulary"):
        RDRecTokenizer.from_pretrained(tmp_path / "one").catalog_trie()


def test_a_new_catalog_has_a_new_trie(mixed_tokenizer):
    mixed_tokenizer.set_catalog(user=["u"], item=["a", "b"])
    assert mixed_tokenizer.catalog_trie().num_items == 2
    mixed_tokenizer.set_catalog(user=["u"], item=["a", "b", "c"])
    assert mixed_tokenizer.catalog_trie().num_items == 3


def test_exclusion_refuses_ends_and_the_nodes_below_which_nothing_is_left(mixed_tokenizer):
    items = [1, 16, 161, 2, 23]
    trie = CatalogTrie.build(mixed_tokenizer, items)
    node = dict(zip(items, trie.ends_of(items).tolist()))
    exclusion = trie.exclusion([[16, 161, 161, 77], [], [1, 16, 161]])

    def refused(question, row, item):
        return bool(question(torch.tensor([row]), torch.tensor([node[item]])))

    assert [refused(exclusion.of_ends, 0, item) for item in items] == [False, True, True, False, False]
    assert [refused(exclusion.of_nodes, 0, item) for item in items] == [False, True, True, False, False]
    assert not any(refused(question, 1, item) for item in items for question in (exclusion.of_ends, exclusion.of_nodes))
    assert refused(exclusion.of_ends, 2, 1) and refused(exclusion.of_nodes, 2, 1)
    partly = trie.exclusion([[1]])
    assert refused(partly.of_ends, 0, 1) and not refused(partly.of_nodes, 0, 1)
