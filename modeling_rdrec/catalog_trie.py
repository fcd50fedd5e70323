"""CatalogTrie: the token sequences of all item ids of a catalog as a trie in flat arrays, and what decoding asks of it.

    trie = CatalogTrie.build(tokenizer, 12101)           # items 1..12101; or a list of ids
    trie.save("runs/beauty/catalog_trie.npy")
    trie = CatalogTrie.load("runs/beauty/catalog_trie.npy")   # memory-mapped

    processor = trie.logits_processor(num_beams=20, exclude=[[3, 45]])
    model.generate(**batch, logits_processor=[processor], num_beams=20, early_stopping="never", length_penalty=0.0,
                   max_new_tokens=trie.longest)

Nodes are numbered level by level, and by token within a parent, so that the children of a node are a run of numbers and
a parent's number is found by bisection. A node's cost is five 32-bit integers; no Python object is made for it.
"""

import json
import os
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LogitsProcessor


CHUNK = 200_000  # ids written as tokens at a time
WORDS_A_TEXT = 1_000
TOKENS_A_KEY, TOKEN_BITS = 3, 21  # three tokens of at most 21 bits fill one sort key of 64


class CatalogTrie:
    """Trie over the token sequences of item ids; the end-of-sequence token is implied at every node that is an item.

    Parameters
    ----------
    arrays : np.ndarray
        int32 `[5, nodes + 1]`, the rows in the order of the attributes below. Node 0 is the root.

    Attributes
    ----------
    token : Tensor int32 `[nodes + 1]`
        Token that leads to the node; -1 at the root.
    first_child : Tensor int32 `[nodes + 1]`
        The children of node n are `first_child[n] … first_child[n + 1] - 1`, in order of their tokens.
    item : Tensor int32 `[nodes + 1]`
        The item whose id ends at the node, 0 where none does (an id may begin another: "12", "123").
    leaves : Tensor int32 `[nodes + 1]`
        Items at or below the node.
    end : Tensor int32 `[nodes + 1]`
        The nodes of the items in ascending order of item; zeros after the last item.
    longest : int
        Tokens of the longest id, end of sequence included; 2: every id is one piece.
    """

    def __init__(self, arrays: np.ndarray):
        self._arrays = arrays
        self.token, self.first_child, self.item, self.leaves, self.end = (torch.from_numpy(row) for row in arrays)
        self.num_nodes = arrays.shape[1] - 1
        self.num_items = int(arrays[3, 0])
        self.end = self.end[: self.num_items]
        self.items = None
        if int(self.item[self.end[-1]]) != self.num_items:
            self.items = self.item[self.end.long()]  # not 1..n: found by bisection
        self.longest, level_ends = 1, 1
        while level_ends < self.num_nodes:  # the first child of a level's first node is the end of that level
            before, level_ends = level_ends, int(self.first_child[level_ends])
            if level_ends <= before:
                raise ValueError(f"node {before} has children before it")
            self.longest += 1
        self._vocabularies: dict[int | None, tuple[torch.Tensor, torch.Tensor]] = {}

    # --- making, saving, loading -------------------------------------------------------------------------------------

    @classmethod
    def build(cls, tokenizer, items: int | Sequence[int]) -> "CatalogTrie":
        """Trie of items 1..`items`, or of the given ids, as `tokenizer` writes them (bare numbers, as targets are).

        Raises
        ------
        ValueError
            For no items, ids below 1, an id given twice, or two ids that the tokenizer writes alike.
        """
        ids = np.arange(1, items + 1) if isinstance(items, int) else np.unique(np.asarray(items, dtype=np.int64))
        if not isinstance(items, int) and len(ids) < len(items):
            raise ValueError("an item id is given twice to CatalogTrie.build: give each id once")
        if len(ids) == 0 or ids[0] < 1:
            raise ValueError("CatalogTrie.build needs item ids from 1: give at least one")
        parts = [_tokens(tokenizer, ids[start : start + CHUNK]) for start in range(0, len(ids), CHUNK)]
        lengths = np.concatenate([part[1] for part in parts])
        flat = np.concatenate([part[0] for part in parts])
        del parts
        return cls.from_tokens(flat, lengths, ids)

    @classmethod
    def from_tokens(cls, flat: np.ndarray, lengths: np.ndarray, items: np.ndarray) -> "CatalogTrie":
        """Trie of given sequences.

        Parameters
        ----------
        flat : np.ndarray
            int32, the tokens of all sequences end to end, without end-of-sequence tokens.
        lengths : np.ndarray
            Tokens of each sequence: int `[items]`, each at least 1.
        items : np.ndarray
            Item of each sequence, ascending: int `[items]`.
        """
        if flat.max(initial=0) >= 2**TOKEN_BITS - 1:
            raise ValueError(f"token {int(flat.max())}: a catalog trie takes vocabularies below {2**TOKEN_BITS - 1}")
        if lengths.min() < 1:
            raise ValueError(f"item {int(items[lengths.argmin()])} has no tokens: the vocabulary lacks digits")
        columns = _columns(flat, lengths)
        order = _sorted_order(columns)
        columns = [column[order] for column in columns]
        items = items[order].astype(np.int32)

        # In sorted order the rows of a node are a run. Level by level: where runs begin, which row belongs to which.
        begins = np.zeros(len(items), dtype=bool)
        begins[0] = True
        token, first_child, ends, leaves = [np.array([-1], np.int32)], [], [], [np.array([len(items)], np.int32)]
        rows = np.arange(len(items))  # of this level: the rows whose ids go on
        node_of_row = np.zeros(len(items), dtype=np.int32)
        level_start, level_size = 0, 1
        end_of_row = np.zeros(len(items), dtype=np.int32)
        for column in columns:
            begins[1:] |= column[1:] != column[:-1]
            going_on = column[rows] >= 0
            end_of_row[rows[~going_on]] = node_of_row[~going_on]
            rows, parents = rows[going_on], node_of_row[going_on]
            starts = begins[rows]
            node_of_row = np.cumsum(starts, dtype=np.int32) + np.int32(level_start + level_size - 1)
            fresh = rows[starts]
            children = np.bincount(parents[starts] - level_start, minlength=level_size)
            first_child.append(level_start + level_size + np.cumsum(children, dtype=np.int32) - children)
            level_start, level_size = level_start + level_size, len(fresh)
            token.append(column[fresh])
            leaves.append(np.bincount(node_of_row - level_start, minlength=level_size).astype(np.int32))
        end_of_row[rows] = node_of_row
        nodes = level_start + level_size
        first_child.append(np.full(level_size + 1, nodes))
        if not begins.all():
            row = int(np.flatnonzero(~begins)[0])
            raise ValueError(
                f"items {items[row - 1]} and {items[row]} are written with the same tokens: this tokenizer cannot tell "
                "the ids of the catalog apart"
            )
        del columns, begins, ends, rows, node_of_row

        arrays = np.zeros((5, nodes + 1), dtype=np.int32)
        arrays[0, :-1] = np.concatenate(token)
        arrays[1] = np.concatenate(first_child)
        arrays[2, end_of_row] = items
        arrays[3, :-1] = np.concatenate(leaves)
        arrays[4, : len(items)] = end_of_row[np.argsort(items, kind="stable")]
        return cls(arrays)

    def save(self, path: str | os.PathLike) -> None:
        """Write the arrays as one `.npy` file, whole or not at all."""
        work = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.writing")
        with open(work, "wb") as file:
            np.save(file, self._arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(work, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "CatalogTrie":
        """Map a saved trie into memory; pages are read when they are needed.

        Raises
        ------
        ValueError
            For a file that is no catalog trie.
        """
        try:
            arrays = np.load(path, mmap_mode="c", allow_pickle=False)
        except Exception as error:  # a damaged header can fail in any way
            raise ValueError(f"{path}: no catalog trie ({error}): delete it, it is built anew without it") from error
        if arrays.dtype != np.int32 or arrays.ndim != 2 or arrays.shape[0] != 5 or arrays.shape[1] < 3:
            raise ValueError(f"{path}: no catalog trie ({arrays.dtype} {arrays.shape}): delete it, it is built anew")
        try:
            return cls(arrays)
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}: a damaged catalog trie ({error}): delete it, it is built anew") from error

    # --- what decoding asks ------------------------------------------------------------------------------------------

    def vocabulary(self, eos_token_id: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens that ids are written with, and the end of sequence unless it is None.

        Returns
        -------
        tokens : LongTensor `[tokens]`
            In ascending order.
        column : LongTensor `[largest token + 1]`
            Place of a token in `tokens`.
        """
        if eos_token_id not in self._vocabularies:
            # Kept for later, when gradients may be asked for.
            with torch.inference_mode(False):
                used = torch.zeros(max(int(self.token.max()), eos_token_id or 0) + 1, dtype=torch.bool)
                used[self.token[1 : self.num_nodes].long()] = True
                if eos_token_id is not None:
                    used[eos_token_id] = True
                self._vocabularies[eos_token_id] = used.nonzero().flatten(), used.long().cumsum(0) - 1
        return self._vocabularies[eos_token_id]

    def children(self, nodes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The children of all `nodes` (LongTensor `[n]`), end to end: the place of each one's parent in `nodes`, and
        the child's node, two LongTensors `[children]`."""
        first = self.first_child[nodes].long()
        counts = self.first_child[nodes + 1].long() - first
        parent = torch.repeat_interleave(torch.arange(len(nodes)), counts)
        before = torch.cumsum(counts, 0) - counts
        return parent, torch.arange(len(parent)) + (first - before)[parent]

    def parent(self, nodes: np.ndarray) -> np.ndarray:
        """The parents of nodes other than the root: int64 `[n]`."""
        return np.searchsorted(self._arrays[1], nodes.astype(np.int32), side="right") - 1

    def descend(self, nodes: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The child that `tokens` leads to, -1 where there is none or the node is -1: LongTensor `[n]`."""
        inside = nodes >= 0
        at = nodes.clamp(min=0)
        low, high = self.first_child[at].long(), self.first_child[at + 1].long()
        stop = high
        for _ in range(int((high - low).max()).bit_length()):
            middle = (low + high) // 2
            right = (self.token[middle.clamp(max=self.num_nodes - 1)] < tokens) & (low < high)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        found = inside & (low < stop) & (self.token[low.clamp(max=self.num_nodes - 1)] == tokens)
        return torch.where(found, low, -1)

    def ends_of(self, items: np.ndarray) -> np.ndarray:
        """The nodes at which items end, -1 for an item that the trie does not hold: int64 `[n]`."""
        items = np.asarray(items, dtype=np.int64)
        if self.items is None:
            place = items - 1
            known = (items >= 1) & (items <= self.num_items)
        else:
            place = np.searchsorted(self.items.numpy(), items)
            known = self.items.numpy()[np.minimum(place, self.num_items - 1)] == items
        return np.where(known, self.end.numpy()[np.where(known, place, 0)], -1).astype(np.int64)

    def spell(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of items, end to end (int64 `[tokens]`), and how many each has (int64 `[items]`).

        Raises
        ------
        ValueError
            For an item that the trie does not hold.
        """
        nodes = self.ends_of(items)
        if (nodes < 0).any():
            raise ValueError(f"item {int(items[(nodes < 0).argmax()])} is not in the catalog")
        if self.longest == 2:
            return self.token.numpy()[nodes].astype(np.int64), np.ones(len(items), dtype=np.int64)
        levels, owners, owner = [], [], np.arange(len(items))
        while len(nodes):
            levels.append(self.token.numpy()[nodes])
            owners.append(owner)
            nodes = self.parent(nodes)
            owner, nodes = owner[nodes > 0], nodes[nodes > 0]
        # From the last token up; in reverse, and sorted by item, they read as written.
        owner = np.concatenate([np.zeros(0, dtype=np.int64), *owners[::-1]])
        tokens = np.concatenate([np.zeros(0, dtype=np.int64), *levels[::-1]]).astype(np.int64)
        return tokens[np.argsort(owner, kind="stable")], np.bincount(owner, minlength=len(items))

    def places_of(self, items: Sequence[int]) -> torch.Tensor:
        """Places, in ascending order of items, of those that the trie holds: LongTensor."""
        items = np.asarray(items, dtype=np.int64)
        items = items[self.ends_of(items) >= 0]
        return torch.from_numpy(items - 1 if self.items is None else np.searchsorted(self.items.numpy(), items))

    def holds(self, tokenizer, items: np.ndarray) -> bool:
        """Whether items end where their ids, as `tokenizer` writes them, lead to."""
        flat, lengths = _tokens(tokenizer, items)
        node, tokens = torch.zeros(len(items), dtype=torch.long), torch.from_numpy(flat)
        starts = torch.from_numpy(np.cumsum(lengths) - lengths)
        for depth in range(int(lengths.max())):
            reaches = torch.from_numpy(lengths > depth)
            node[reaches] = self.descend(node[reaches], tokens[starts[reaches] + depth])
        return bool((node.numpy() == self.ends_of(items)).all() and (node >= 0).all())

    def paths(self, rows: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The end of each item and all nodes above it, for items that the trie holds.

        Parameters
        ----------
        rows, items : np.ndarray
            Query that an item belongs to, and the item: int64 `[n]`.

        Returns
        -------
        rows, nodes : np.ndarray
            int64; the first n entries are the ends. A node shared by items of a row stands once for each.
        """
        nodes = self.ends_of(items)
        all_rows, all_nodes = [rows], [nodes]
        while len(nodes):
            above = nodes > 0
            rows, nodes = rows[above], self.parent(nodes[above])
            all_rows.append(rows)
            all_nodes.append(nodes)
        return np.concatenate(all_rows), np.concatenate(all_nodes)

    def exclusion(self, exclude: Sequence[Sequence[int]]) -> "Exclusion":
        """What the search of row r must keep away from, so that it never answers with an item of `exclude[r]`."""
        return Exclusion(self, exclude)

    def logits_processor(self, num_beams: int = 1, exclude: Sequence[Sequence[int]] | None = None, **settings):
        """A [`CatalogLogitsProcessor`] of this trie, for `generate(logits_processor=[…])`."""
        return CatalogLogitsProcessor(self, num_beams, exclude, **settings)


class Exclusion:
    """Items that some rows of a batch must not be given.

    An item can be refused at its end only, since its id may begin another one; but a search that walks to a node below
    which all items are refused has wasted its beam. So those nodes are refused too: then every beam leads to an answer,
    and a search of B beams gives B answers where there are as many.

    Items that the trie does not hold are passed over.
    """

    def __init__(self, trie: CatalogTrie, exclude: Sequence[Sequence[int]]):
        lengths = np.fromiter(map(len, exclude), dtype=np.int64, count=len(exclude))
        items = np.fromiter((item for row in exclude for item in row), dtype=np.int64, count=int(lengths.sum()))
        # An item may stand twice in a history, and counts once.
        width = int(items.max(initial=0)) + 1
        rows, items = np.divmod(np.unique(np.repeat(np.arange(len(exclude)), lengths) * width + items), width)
        known = trie.ends_of(items) >= 0
        rows, items = rows[known], items[known]
        self._nodes = trie.num_nodes
        self._ends = torch.from_numpy(np.sort(rows * self._nodes + trie.ends_of(items)))
        rows, nodes = trie.paths(rows, items)
        keys, counts = np.unique(rows * self._nodes + nodes, return_counts=True)
        self._dead = torch.from_numpy(keys[counts == trie.leaves.numpy()[keys % self._nodes]])

    def of_ends(self, rows: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Whether the item that ends at a node is refused to a row: BoolTensor `[n]`."""
        return _is_among(self._ends, rows * self._nodes + nodes)

    def of_nodes(self, rows: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        """Whether all items at or below a node are refused to a row: BoolTensor `[n]`."""
        return _is_among(self._dead, rows * self._nodes + nodes)


class CatalogLogitsProcessor(LogitsProcessor):
    """Keeps the beams of `generate(…)` inside a catalog, for prompts answered with one item.

    With `early_stopping="never"`, `max_new_tokens=trie.longest` and the same beams and length penalty, `generate` gives
    what `model.recommend` gives (which is faster, since beams share the user's encoder states).

    Parameters
    ----------
    trie : CatalogTrie
    num_beams : int
        As given to `generate`.
    exclude : list of lists of int, optional
        Items that are not to be answered, a list for each prompt.
    eos_token_id : int
        As in the model's configuration.
    prefix_length : int
        Tokens of `decoder_input_ids`, the start token included (1: none are given).
    ends : bool
        Whether an id is followed by `</s>`; otherwise each id is one piece and `max_new_tokens` 1.
    among_ids : bool
        Log-probabilities among the tokens that ids are written with, instead of the whole vocabulary: what a model with
        `history="decoder"` is trained to give.
    added : Tensor float32 `[prompts, num_items]`, optional
        Added to the logits of ids of one piece: the prior of counted transitions.

    Where a prompt has fewer answers left than beams, the sequences after the last one have a score of -inf.
    """

    def __init__(
        self,
        trie: CatalogTrie,
        num_beams: int = 1,
        exclude: Sequence[Sequence[int]] | None = None,
        eos_token_id: int = 1,
        prefix_length: int = 1,
        ends: bool = True,
        among_ids: bool = False,
        added: torch.Tensor | None = None,
    ):
        self.trie, self.num_beams, self.eos_token_id = trie, num_beams, eos_token_id
        self.prefix_length, self.ends, self.among_ids, self.added = prefix_length, ends, among_ids, added
        self.exclusion = None if exclude is None else trie.exclusion(exclude)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        written = input_ids[:, self.prefix_length :].cpu()
        row = torch.arange(len(written)) // self.num_beams
        node = torch.zeros(len(written), dtype=torch.long)
        for token in written.T:
            node = self.trie.descend(node, token)
        # generate() starts its other beams as copies of the first: only the first of equal beams goes on.
        key = row * self.trie.num_nodes + node
        same = (key[:, None] == key[None, :]) & torch.ones(len(key), len(key), dtype=torch.bool).tril(-1)
        live = ((node >= 0) & ~same.any(1)).nonzero().flatten()

        if self.among_ids:
            scores = self._among_ids(scores, row)
        parent, child = self.trie.children(node[live])
        ends = live[(self.trie.item[node[live]] > 0) & self.ends]
        if self.exclusion is not None:
            kept = ~self.exclusion.of_nodes(row[live][parent], child)
            parent, child = parent[kept], child[kept]
            ends = ends[~self.exclusion.of_ends(row[ends], node[ends])]
        beams = torch.cat([live[parent], ends]).to(scores.device)
        tokens = torch.cat([self.trie.token[child].long(), torch.full_like(ends, self.eos_token_id)]).to(scores.device)
        allowed = torch.full_like(scores, -torch.inf)
        allowed[beams, tokens] = scores[beams, tokens]
        return allowed

    def _among_ids(self, scores: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Log-probabilities among the tokens of ids alone, the prior included; minus infinity elsewhere."""
        tokens = self.trie.vocabulary(self.eos_token_id if self.ends else None)[0].to(scores.device)
        logits = scores[:, tokens]
        if self.added is not None:
            # The nodes of ids of one piece are in order of their tokens.
            items = self.trie.item[1 : self.trie.num_nodes].long().to(scores.device)
            logits = logits + self.added[row].to(scores.device)[:, items - 1]
        return torch.full_like(scores, -torch.inf).index_copy(1, tokens, logits.log_softmax(1))


def _is_among(keys: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    if len(keys) == 0:
        return torch.zeros_like(wanted, dtype=torch.bool)
    return keys[torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)] == wanted


def _tokens(tokenizer, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of ids written as bare numbers, end to end (int32), and how many each has (int64 `[ids]`)."""
    backend = tokenizer.backend_tokenizer
    # The state of the last call of the tokenizer is not that of this one.
    backend.no_padding()
    backend.no_truncation()
    numbers = ids.astype(str).tolist()
    if _splits_at_spaces(backend):
        # Words are cut into pieces one by one, so that many ids may stand in one text.
        texts = [" ".join(numbers[start : start + WORDS_A_TEXT]) for start in range(0, len(numbers), WORDS_A_TEXT)]
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        flat = np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])
        word = np.concatenate([np.array(encoding.word_ids, dtype=np.int64) for encoding in encodings])
        pieces = np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))
        word += np.repeat(np.arange(len(texts)) * WORDS_A_TEXT, pieces)
        return flat, np.bincount(word, minlength=len(ids))
    encodings = backend.encode_batch_fast(numbers, add_special_tokens=False)
    flat = np.array([token for encoding in encodings for token in encoding.ids], dtype=np.int32)
    return flat, np.fromiter(map(len, encodings), dtype=np.int64, count=len(encodings))


def _splits_at_spaces(backend) -> bool:
    splitter = json.loads(backend.to_str())["pre_tokenizer"] or {}
    steps = splitter.get("pretokenizers", [splitter])
    return bool(steps) and steps[0].get("type") in ("Whitespace", "WhitespaceSplit")


def _columns(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """The d-th token of every sequence, -1 past its end: a list of int32 `[sequences]`."""
    starts = np.cumsum(lengths) - lengths
    columns = []
    for depth in range(int(lengths.max())):
        column = np.full(len(lengths), -1, dtype=np.int32)
        reaches = lengths > depth
        column[reaches] = flat[starts[reaches] + depth]
        columns.append(column)
    return columns


def _sorted_order(columns: list[np.ndarray]) -> np.ndarray:
    """The order that sorts sequences by their tokens, a sequence before its continuations: int64 `[sequences]`."""
    keys = []
    for start in range(0, len(columns), TOKENS_A_KEY):
        key = np.zeros(len(columns[0]), dtype=np.int64)
        for column in columns[start : start + TOKENS_A_KEY]:
            key <<= TOKEN_BITS
            key |= column + np.int64(1)
        keys.append(key)
    return np.argsort(keys[0], kind="stable") if len(keys) == 1 else np.lexsort(keys[::-1])
