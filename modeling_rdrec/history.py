"""A user's items as the decoder reads them: `[start] item_A item_B …`, oldest first.

    tokens, marks, lengths = spell(trie, [[3, 45], [7]], config)     # end to end
    prefix = decoder_prefix(trie, [[3, 45], [7]], config)            # padded, the start token first

Where every id is one piece of the vocabulary, an item is one token. Elsewhere an id's pieces are followed by `</s>`, as
an answer is, and marked by the whole-word id of their item: 1, 2, 3 … from the oldest item that is read.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class DecoderPrefix(NamedTuple):
    """Histories as decoder inputs, padded on the right: all LongTensors.

    input_ids `[rows, longest]`, whole_word_ids `[rows, longest]`, lengths `[rows]` (the start token included)
    """

    input_ids: torch.Tensor
    whole_word_ids: torch.Tensor
    lengths: torch.Tensor


def spell(trie, sequences: Sequence[Sequence[int]], config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tokens of item sequences, end to end.

    Parameters
    ----------
    trie : CatalogTrie
        Holds all the items.
    sequences : sequence of sequences of int
        Item ids, oldest first, possibly none.
    config : RDRecConfig

    Returns
    -------
    tokens, marks : np.ndarray
        int64 `[tokens]`: tokens and their whole-word ids.
    lengths : np.ndarray
        Tokens of each sequence: int64 `[sequences]`.

    Raises
    ------
    ValueError
        For an item that the trie does not hold.
    """
    sizes = np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    items = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(row, dtype=np.int64) for row in sequences)])
    pieces, counts = trie.spell(items)
    if config.ids_are_pieces:
        return pieces, np.zeros(len(pieces), dtype=np.int64), sizes
    # One more place behind each item for </s>.
    ends = np.cumsum(counts + 1) - 1
    tokens = np.full(len(pieces) + len(items), config.eos_token_id, dtype=np.int64)
    is_piece = np.ones(len(tokens), dtype=bool)
    is_piece[ends] = False
    tokens[is_piece] = pieces
    number = np.arange(len(items)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    marks = np.where(is_piece, np.repeat(number, counts + 1), 0)
    row = np.repeat(np.arange(len(sequences)), sizes)
    return tokens, marks, np.bincount(row, counts + 1, minlength=len(sequences)).astype(np.int64)


def decoder_prefix(trie, histories: Sequence[Sequence[int]], config) -> DecoderPrefix:
    """The decoder's inputs that read these histories; arguments and errors as in `spell`."""
    tokens, marks, lengths = spell(trie, histories, config)
    shape = len(histories), int(lengths.max(initial=0)) + 1
    input_ids = torch.full(shape, config.pad_token_id)
    whole_word_ids = torch.zeros(shape, dtype=torch.long)
    input_ids[:, 0] = config.decoder_start_token_id
    filled = torch.arange(1, shape[1]) <= torch.from_numpy(lengths)[:, None]
    input_ids[:, 1:][filled] = torch.from_numpy(tokens)
    whole_word_ids[:, 1:][filled] = torch.from_numpy(marks)
    return DecoderPrefix(input_ids, whole_word_ids, torch.from_numpy(lengths) + 1)


def marks_of(input_ids: torch.Tensor, config) -> torch.Tensor:
    """Whole-word ids of decoder inputs `[rows, length]` as `generate` grows them: each `</s>` ends an item."""
    ends = (input_ids == config.eos_token_id).long()
    number = ends.cumsum(1) - ends + 1
    inside = (input_ids != config.eos_token_id) & (input_ids != config.pad_token_id)
    return torch.where(inside, number, 0)


__all__ = ["DecoderPrefix", "decoder_prefix", "marks_of", "spell"]
