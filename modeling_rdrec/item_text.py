"""Item vectors made of words: an item's embedding is its own row plus those of its text's pieces.

    text = ItemText(item_tokens, pieces_of_each_item)
    table = text.composed(model.shared.weight)        # what the model computes with while it is trained
    text.vectors(table)                               # the text's part alone: the row of an item nobody bought yet

The sum of an item's pieces is divided by the root of their number, so that long and short texts weigh alike. When a
checkpoint is saved the composed rows take the place of the items' own (`fold`), so it holds a plain T5 table.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class ItemText(nn.Module):
    """The pieces of every item's text. Holds no weights and is not part of a state dict.

    Parameters
    ----------
    item_tokens : sequence of int
        The embedding row of each item: `[items]`, each once.
    pieces : sequence of sequences of int
        The embedding rows of each item's text, possibly none; no row of an item may be among them.
    own_dropout : float
        While training, the share of items whose own part is left out of a step, so that the text alone has to serve,
        as it must for new items.
    """

    def __init__(self, item_tokens: Sequence[int], pieces: Sequence[Sequence[int]], own_dropout: float = 0.0):
        super().__init__()
        self.own_dropout = own_dropout
        lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        flat = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(row, dtype=np.int64) for row in pieces)])
        weight = (np.maximum(lengths, 1) ** -0.5)[np.repeat(np.arange(len(pieces)), lengths)]
        # The way back sums, for each piece, over the items that have it: the same table turned over.
        order = np.argsort(flat, kind="stable")
        used, starts = np.unique(flat[order], return_index=True)
        arrays = {
            "rows": np.asarray(item_tokens, dtype=np.int64),
            "pieces": flat,
            "offsets": np.cumsum(lengths) - lengths,
            "weight": weight.astype(np.float32),
            "used": used,
            "items_of": np.repeat(np.arange(len(pieces)), lengths)[order],
            "offsets_of": starts,
            "weight_of": weight[order].astype(np.float32),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        self.register_buffer("has_text", torch.from_numpy(lengths > 0), persistent=False)

    def vectors(self, table: torch.Tensor) -> torch.Tensor:
        """The text's part of every item's vector: `[items, d_model]` from the embeddings `[vocab_size, d_model]`."""
        return _SumOfPieces.apply(table, self)

    def composed(self, table: torch.Tensor) -> torch.Tensor:
        """The embeddings with every item's text added to its own row: `[vocab_size, d_model]`."""
        own = table
        if self.training and self.own_dropout:
            dropped = (torch.rand(len(self.rows), device=table.device) < self.own_dropout) & self.has_text
            keep = table.new_ones(len(table), 1)
            keep[self.rows[dropped]] = 0
            own = table * keep
        return own.index_add(0, self.rows, self.vectors(table))

    @torch.no_grad()
    def fold(self, table: torch.Tensor) -> None:
        """Add the text's part to the items' rows of `table`, in place."""
        table.index_add_(0, self.rows, self.vectors(table))

    @torch.no_grad()
    def unfold(self, table: torch.Tensor) -> None:
        """Take the text's part out again, for training to go on from a saved checkpoint; in place."""
        table.index_add_(0, self.rows, self.vectors(table), alpha=-1)


class _SumOfPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, text):
        ctx.text, ctx.shape = text, table.shape
        return F.embedding_bag(text.pieces, table, text.offsets, mode="sum", per_sample_weights=text.weight)

    @staticmethod
    def backward(ctx, gradient):
        text = ctx.text
        of_pieces = F.embedding_bag(
            text.items_of, gradient.contiguous(), text.offsets_of, mode="sum", per_sample_weights=text.weight_of
        )
        return gradient.new_zeros(ctx.shape).index_copy_(0, text.used, of_pieces), None


__all__ = ["ItemText"]
