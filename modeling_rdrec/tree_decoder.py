"""TreeDecoder: T5's decoder over trees of tokens, many continuations of one prompt at once.

    decoder = TreeDecoder(model, encoder_states, mask, height=6)
    root = decoder.extend(start_tokens, parents=start_slots)   # [users, 1, d_model]
    next_ = decoder.extend(tokens, parents)                    # [users, width, d_model]

Every token that was ever decoded for a prompt keeps a slot: its key and value. A token attends to its ancestors, as a
mask over slots says; so beams that share a beginning share its slots, nothing is copied when beams change places, and a
whole tree of candidates can be decoded in one pass. Keys and values of the encoder's states are made once a prompt, and
all its tokens attend to them as one block of queries. The weights are those of the model's own modules.
"""

import torch
from torch.nn import functional as F


class TreeDecoder:
    """Decoder of a batch of prompts.

    Parameters
    ----------
    model : RDRecForConditionalGeneration
    states : Tensor `[prompts, length, d_model]`
        The encoder's last hidden states.
    mask : LongTensor `[prompts, length]`
        1 for tokens and soft prompts, 0 for padding.
    height : int
        Tokens on the longest way down a tree, the start token included.
    """

    def __init__(self, model, states: torch.Tensor, mask: torch.Tensor, height: int):
        self.config = model.config
        self.stack = model.decoder
        # In the paper's way whole words are marked in the encoder alone: not even row 0 is added here.
        self.whole_words = model.whole_word_embeddings if model.config.history == "decoder" else None
        self.device = states.device
        self.cross_keys, self.cross_values = [], []
        for block in self.stack.block:
            attention = block.layer[1].EncDecAttention
            self.cross_keys.append(self._heads(attention.k(states)))
            self.cross_values.append(self._heads(attention.v(states)))
        self.cross_mask = None if bool(mask.all()) else mask[:, None, None, :].bool()
        self.keys: list[torch.Tensor | None] = [None] * len(self.stack.block)
        self.values: list[torch.Tensor | None] = [None] * len(self.stack.block)
        self.parents = torch.zeros(len(states), 0, dtype=torch.long, device=self.device)
        self.depths = torch.zeros(len(states), 0, dtype=torch.long, device=self.device)
        self.height = height

    def extend(self, tokens: torch.Tensor, parents: torch.Tensor, marks: torch.Tensor | None = None) -> torch.Tensor:
        """Decode one more token below each of the given slots.

        Parameters
        ----------
        tokens, parents : LongTensor `[prompts, width]`
            Tokens and the slots they follow; slots are numbered as their tokens were given. A root's parent is itself,
            and a parent may be among the tokens of this call.
        marks : LongTensor `[prompts, width]`, optional
            Whole-word ids of the tokens, where the decoder reads any.

        Returns
        -------
        Tensor `[prompts, width, d_model]`
            Last hidden states, for `Head`.
        """
        known, width = self.parents.shape[1], tokens.shape[1]
        self.parents = torch.cat([self.parents, parents], dim=1)
        slots = torch.arange(known, known + width, device=self.device).expand(len(tokens), width)
        sees = torch.zeros(len(tokens), width, known + width, dtype=torch.bool, device=self.device)
        for _ in range(self.height):
            sees.scatter_(2, slots.unsqueeze(2), True)
            slots = self.parents.gather(1, slots)
        depths = sees.sum(2) - 1
        self.depths = torch.cat([self.depths, depths], dim=1)
        bias = self._bias(depths, sees)

        hidden = self.stack.embed_tokens(tokens)
        if marks is not None and self.whole_words is not None:
            hidden = hidden + self.whole_words(marks)
        for number, block in enumerate(self.stack.block):
            hidden = hidden + self._self_attention(number, block.layer[0], hidden, bias)
            hidden = hidden + self._cross_attention(number, block.layer[1], hidden)
            hidden = block.layer[2](hidden)
        return self.stack.final_layer_norm(hidden)

    def _bias(self, depths: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """T5's bias by distance where a token sees a slot, minus infinity elsewhere: `[prompts, heads, width, slots]`.

        One bias serves all layers, as in T5.
        """
        attention = self.stack.block[0].layer[0].SelfAttention
        buckets = attention._relative_position_bucket(
            -torch.arange(self.height, device=self.device),
            bidirectional=False,
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        by_distance = attention.relative_attention_bias(buckets).T  # [heads, height]
        distance = (depths.unsqueeze(2) - self.depths.unsqueeze(1)).clamp_(0, self.height - 1)
        bias = by_distance[:, distance.flatten()].view(-1, *distance.shape).transpose(0, 1)
        return bias.masked_fill(~sees.unsqueeze(1), -torch.inf)

    def _self_attention(self, number, layer, hidden, bias) -> torch.Tensor:
        attention, normed = layer.SelfAttention, layer.layer_norm(hidden)
        keys, values = self._heads(attention.k(normed)), self._heads(attention.v(normed))
        if self.keys[number] is not None:
            keys = torch.cat([self.keys[number], keys], dim=2)
            values = torch.cat([self.values[number], values], dim=2)
        self.keys[number], self.values[number] = keys, values
        return self._attend(attention, normed, keys, values, bias)

    def _cross_attention(self, number, layer, hidden) -> torch.Tensor:
        attention, normed = layer.EncDecAttention, layer.layer_norm(hidden)
        return self._attend(attention, normed, self.cross_keys[number], self.cross_values[number], self.cross_mask)

    def _attend(self, attention, normed, keys, values, mask) -> torch.Tensor:
        queries = self._heads(attention.q(normed))
        if mask is not None and mask.is_floating_point():
            mask = mask.to(queries.dtype)
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)
        return attention.o(mixed.transpose(1, 2).flatten(2))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """`[prompts, length, heads * d_kv]` to `[prompts, heads, length, d_kv]`."""
        return states.unflatten(2, (self.config.num_heads, self.config.d_kv)).transpose(1, 2)
