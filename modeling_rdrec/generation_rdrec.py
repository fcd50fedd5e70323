"""Recommendations and explanations from an RDRec model: prompts in, catalog items and sentences out.

    model.recommend(tokenizer, user="A1YJEY40YUW4SE", history=["B004756YJA", …], k=10)
    model.rank(tokenizer, user=12, candidates=[3, 45, …])
    model.explain(tokenizer, user=12, item=45)

At inference a prompt is bare (`user_12 item_3 item_45`), as in the paper's code. An item's score is the log-likelihood
of its id, `</s>` included; `recommend` searches the catalog's trie with beams (or exactly), `rank` scores every
candidate. `protocol="published"` is what the paper's code does instead: beams over the whole vocabulary, of which those
that are no item are dropped.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .catalog_trie import CatalogTrie, Exclusion
from .configuration_rdrec import TASKS
from .fast_linear import fast_linear
from .tree_decoder import Head, TreeDecoder


# Beams of the paper's evaluation (section 4.1): 20 for items; 21 in 3 groups without diversity, which is 7, for texts.
ITEM_BEAMS = 20
TEXT_BEAMS = 7
MIN_EXPLANATION_LENGTH = 10
# Of its 20 beams the paper's code looks at so many, and lets them run that far.
PUBLISHED_RETURNED = {"sequential": 15, "topn": 10}
PUBLISHED_MAX_NEW_TOKENS = 50
# Encoder positions of prompts that are worked on together: few enough for the cache of a CPU, enough for its cores.
POSITIONS_A_BATCH = 4096
# Nodes that the exact search opens at a time for each prompt.
EXACT_WIDTH = 64


class RankedItems(NamedTuple):
    """Items of one query, best first, and their scores (log-likelihood over length to the power of the penalty)."""

    items: list
    scores: list[float]


class RDRecGenerationMixin:
    """The task-level methods of [`RDRecForConditionalGeneration`]."""

    def recommend(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        history: Sequence,
        k: int = 10,
        num_beams: int = ITEM_BEAMS,
        exact: bool = False,
        length_penalty: float = 0.0,
        protocol: str = "clean",
        trie: CatalogTrie | None = None,
    ) -> RankedItems | list[RankedItems]:
        """The next items of a user (sequential recommendation) from the whole catalog, without those in `history`.

        Parameters
        ----------
        tokenizer : RDRecTokenizer
        user : id or list of ids
            Integer ids or raw ids; a list asks for several users at once.
        history : list of ids, or list of such lists
            Each user's items, oldest first, possibly none; the last `config.max_history` are read.
        k : int
            Items to return; fewer only where the catalog holds fewer that are not in the history.
        num_beams : int
            Beams kept (`k` if that is more).
        exact : bool
            The true best k of the catalog instead of what beams find.
        length_penalty : float
            Scores are log-likelihoods divided by the tokens of an id to this power; 0: plain log-likelihoods.
        protocol : str
            "clean", or "published": the paper's beams, over the whole vocabulary and by mean log-probability (`exact`,
            `length_penalty` and `trie` do not apply). Beams that are no item of the catalog are dropped, so fewer than
            k items may be returned.
        trie : CatalogTrie, optional
            The items to choose from. Default: the catalog of the tokenizer.

        Returns
        -------
        RankedItems or list of RankedItems
            Raw ids where the user was given as a raw id, otherwise integers.

        Raises
        ------
        ValueError
            For a user or item that the catalog does not hold, another number of histories than of users, k below 1, or
            a tokenizer without a catalog and no `trie`.
        """
        users, histories, single = _pairs(user, history, "history", "histories")
        _check_settings(protocol, k, length_penalty)
        histories = [[tokenizer.to_id("item", item) for item in row] for row in histories]
        ids = [tokenizer.to_id("user", one) for one in users]
        read = min(self.config.max_history, self.config.max_whole_words - 2)  # the user is a whole word too
        longest = max(map(len, histories), default=0)
        if longest > self.config.max_whole_words - 2:
            warnings.warn(
                f"a history of {longest} items is longer than the whole-word table: the last {read} are read",
                stacklevel=2,
            )
        texts = [bare_prompt(u, row[-read:]) for u, row in zip(ids, histories)]
        if protocol == "published":
            known = tokenizer.num_ids("item")
            allowed = [
                lambda item, seen=frozenset(row): item not in seen and (known is None or item <= known)
                for row in histories
            ]
            ranked = self._published(tokenizer, "sequential", texts, allowed, k, num_beams)
        else:
            trie = tokenizer.catalog_trie() if trie is None else trie
            search = _exact_search if exact else _beam_search
            ranked = [None] * len(texts)
            with torch.inference_mode(), fast_linear():
                for rows, decoder in self._decoders(tokenizer, "sequential", texts, trie.longest):
                    exclusion = trie.exclusion([histories[row] for row in rows])
                    found = search(self, decoder, trie, exclusion, k, max(num_beams, k), length_penalty)
                    for row, answer in zip(rows, found):
                        ranked[row] = answer
        return _as_given(tokenizer, users, ranked, single)

    def rank(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        candidates: Sequence,
        k: int | None = None,
        num_beams: int = ITEM_BEAMS,
        length_penalty: float = 0.0,
        protocol: str = "clean",
    ) -> RankedItems | list[RankedItems]:
        """All candidates of a user in order of their log-likelihood (top-N recommendation).

        Every candidate is scored; none is lost to a beam. Ids that begin alike share the decoder's work. Candidates of
        equal scores are ordered by integer id.

        Parameters
        ----------
        tokenizer, user, length_penalty
            As in `recommend`.
        candidates : list of ids, or list of such lists
            Each user's candidates, in the order in which the prompt names them; an item given twice counts once.
        k : int, optional
            Return the best k only.
        protocol : str
            "clean", or "published": the paper's beams (`num_beams`, for no other use), as in `recommend`; those that
            are no candidate are dropped.

        Returns
        -------
        RankedItems or list of RankedItems
            Raw ids where the user was given as a raw id, otherwise integers.

        Raises
        ------
        ValueError
            For a user or item that the catalog does not hold, another number of lists than of users, a list without
            candidates or with more than the whole-word table has rows for, or k below 1.
        """
        users, lists, single = _pairs(user, candidates, "candidate list", "candidate lists")
        _check_settings(protocol, k, length_penalty)
        lists = [list(dict.fromkeys(tokenizer.to_id("item", item) for item in row)) for row in lists]
        if not all(lists):
            raise ValueError(f"query {[len(row) for row in lists].index(0)} has no candidates: give at least one")
        texts = [bare_prompt(tokenizer.to_id("user", u), row) for u, row in zip(users, lists)]
        if protocol == "published":
            allowed = [frozenset(row).__contains__ for row in lists]
            ranked = self._published(tokenizer, "topn", texts, allowed, k, num_beams)
        else:
            if tokenizer.catalog is None:
                trie = CatalogTrie.build(tokenizer, sorted({item for row in lists for item in row}))
            else:
                trie = tokenizer.catalog_trie()
            ranked = [None] * len(texts)
            with torch.inference_mode(), fast_linear():
                for rows, decoder in self._decoders(tokenizer, "topn", texts, trie.longest):
                    scores = _score(self, decoder, trie, [lists[row] for row in rows], length_penalty)
                    for row, row_scores in zip(rows, scores):
                        order = np.lexsort((lists[row], -row_scores))[:k]
                        ranked[row] = RankedItems([lists[row][i] for i in order], row_scores[order].tolist())
        return _as_given(tokenizer, users, ranked, single)

    def explain(
        self,
        tokenizer,
        user: int | str | Sequence[int | str],
        item: int | str | Sequence[int | str],
        num_beams: int = TEXT_BEAMS,
        min_length: int = MIN_EXPLANATION_LENGTH,
        max_length: int = 21,
    ) -> str | list[str]:
        """Why this user would buy this item, in a sentence; one pair or lists of equal length.

        What `generate` writes with these settings, early stopping and a length penalty of 1. `min_length` and
        `max_length` count tokens with the start token, as in transformers.
        """
        users, single = _as_list(user)
        items, _ = _as_list(item)
        if len(users) != len(items):
            raise ValueError(f"{len(users)} users but {len(items)} items: give one item a user")
        texts = [bare_prompt(tokenizer.to_id("user", u), [tokenizer.to_id("item", i)]) for u, i in zip(users, items)]
        sentences = [""] * len(texts)
        with torch.inference_mode(), fast_linear():
            for rows, decoder in self._decoders(tokenizer, "explanation", texts, max_length):
                written = _write(self, decoder, num_beams, min_length, max_length)
                for row, text in zip(rows, tokenizer.batch_decode(written, skip_special_tokens=True)):
                    sentences[row] = text.strip()
        return sentences[0] if single else sentences

    def _prompts(self, tokenizer, task: str, texts: list[str]) -> dict:
        batch = tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
        batch["task_ids"] = torch.full((len(texts),), TASKS.index(task), device=self.device)
        return batch

    def _decoders(self, tokenizer, task: str, texts: list[str], height: int) -> Iterator[tuple[list[int], TreeDecoder]]:
        """Encode prompts in batches of similar lengths; for each batch, which prompts it holds and their decoder."""
        encoded = tokenizer(texts)
        lengths = [len(row) for row in encoded["input_ids"]]
        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)
        start = 0
        while start < len(order):
            rows = order[
                start : start + max(1, POSITIONS_A_BATCH // (lengths[order[start]] + self.config.prompt_length))
            ]
            start += len(rows)
            batch = tokenizer.pad(
                {name: [column[row] for row in rows] for name, column in encoded.items()}, return_tensors="pt"
            )
            batch["task_ids"] = torch.full((len(rows),), TASKS.index(task))
            states, mask = self.encode(**batch.to(self.device))
            yield rows, TreeDecoder(self, states.last_hidden_state, mask, height)

    def _published(self, tokenizer, task, texts, allowed, k, num_beams) -> list[RankedItems]:
        """Beams for each prompt, read as item ids; only those that `allowed[row](id)` admits, each once, k at most."""
        returned = min(PUBLISHED_RETURNED[task], num_beams)
        output = self.generate(
            **self._prompts(tokenizer, task, texts),
            num_beams=num_beams,
            num_return_sequences=returned,
            max_new_tokens=PUBLISHED_MAX_NEW_TOKENS,
            do_sample=False,
            early_stopping=True,
            length_penalty=1.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        answers = tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        scores = output.sequences_scores.tolist()
        ranked = []
        for row, admits in enumerate(allowed):
            found: dict[int, float] = {}
            for answer, score in zip(
                answers[row * returned : (row + 1) * returned], scores[row * returned : (row + 1) * returned]
            ):
                answer = answer.strip()
                # "012" is no item id, although int() would take it.
                if answer.isascii() and answer.isdigit() and answer[0] != "0" and admits(int(answer)):
                    found.setdefault(int(answer), score)
            items = list(found)[:k]
            ranked.append(RankedItems(items, [found[item] for item in items]))
        return ranked


def bare_prompt(user: int, items: Sequence[int]) -> str:
    """The text of a prompt at inference: `user_12 item_3 item_45`."""
    return " ".join([f"user_{user}", *(f"item_{item}" for item in items)])


# --- searching and scoring -------------------------------------------------------------------------------------------


def _score(model, decoder: TreeDecoder, trie: CatalogTrie, lists: list[list[int]], length_penalty) -> list[np.ndarray]:
    """Score of every candidate of every prompt, from one pass of the decoder over each prompt's tree of prefixes."""
    sizes = np.array([len(row) for row in lists])
    items = np.concatenate([np.asarray(row, dtype=np.int64) for row in lists])
    query = np.repeat(np.arange(len(lists)), sizes)
    rows, nodes = trie.paths(query, items)
    # Parents have smaller numbers than their children, so sorted order is an order in which a tree can be decoded.
    keys, place = np.unique(rows * trie.num_nodes + nodes, return_inverse=True)
    row, node = np.divmod(keys, trie.num_nodes)
    first = np.searchsorted(row, np.arange(len(lists)))
    slot = np.arange(len(keys)) - first[row]
    inner = node > 0
    above = np.arange(len(keys))
    above[inner] = np.searchsorted(keys, row[inner] * trie.num_nodes + trie.parent(node[inner]))

    width = int(slot.max()) + 1
    tokens = np.full((len(lists), width), model.config.decoder_start_token_id)
    parents = np.zeros((len(lists), width), dtype=np.int64)
    tokens[row[inner], slot[inner]] = trie.token.numpy()[node[inner]]
    parents[row, slot] = slot[above]
    device = decoder.device
    hidden = decoder.extend(torch.from_numpy(tokens).to(device), torch.from_numpy(parents).to(device))

    hidden = hidden[torch.from_numpy(row).to(device), torch.from_numpy(slot).to(device)]
    head = Head(model)
    normalizer = head.normalizers(hidden).double().cpu().numpy()
    at, token = torch.from_numpy(above[inner]), trie.token[torch.from_numpy(node[inner])].long()
    edge = np.zeros(len(keys))
    edge[inner] = head.pair_logits(hidden[at.to(device)], token.to(device)).double().cpu().numpy()
    edge[inner] -= normalizer[above[inner]]
    ends = place[: len(items)]
    stop = torch.full((len(ends),), model.config.eos_token_id, device=device)
    scores = head.pair_logits(hidden[torch.from_numpy(ends).to(device)], stop).double().cpu().numpy() - normalizer[ends]
    lengths = np.ones(len(ends))
    at = ends
    while (node[at] > 0).any():  # at the root the edge is 0 and its parent itself
        scores += edge[at]
        lengths += node[at] > 0
        at = above[at]
    return np.split(scores / lengths**length_penalty, np.cumsum(sizes)[:-1])


class _Continuations(NamedTuple):
    """What may follow the nodes that a search has opened, for each prompt, padded with scores of minus infinity."""

    scores: torch.Tensor  # float32 [prompts, width], log-probability of the whole sequence
    nodes: torch.Tensor  # int64 [prompts, width]: a child, or the opened node itself where the sequence ends there
    slots: torch.Tensor  # int64 [prompts, width], the opened node's place in the decoder
    ends: torch.Tensor  # bool [prompts, width], whether the sequence ends


class _Search:
    """What beam search and exact search share: opening nodes of the trie, and the best answers so far.

    All but the decoder's work is done on the CPU, where the trie is.
    """

    def __init__(self, model, decoder, trie, exclusion, kept, k, length_penalty):
        self.decoder, self.trie, self.exclusion, self.length_penalty = decoder, trie, exclusion, length_penalty
        self.k, self.kept = k, kept
        self.head = Head(model)
        self.start, self.eos = model.config.decoder_start_token_id, model.config.eos_token_id
        tokens, self.column = trie.vocabulary(self.eos)
        self.tokens = tokens.to(decoder.device)
        self.prompts = len(decoder.parents)
        self.best = torch.full((self.prompts, kept), -torch.inf)
        self.items = torch.zeros(self.prompts, kept, dtype=torch.long)

    def can_improve(self, scores: torch.Tensor) -> torch.Tensor:
        """Whether sequences of these log-probabilities `[prompts, width]` may still come before the k-th answer.

        Log-probabilities only fall, and no sequence is longer than the trie's longest: the bound is exact.
        """
        return scores / self.trie.longest**self.length_penalty > self.best[:, self.k - 1 : self.k]

    def open(self, nodes, parents, scores) -> _Continuations:
        """Decode nodes `[prompts, width]` below their parents' slots; one of score minus infinity is padding."""
        first_slot = self.decoder.parents.shape[1]
        tokens = self.trie.token[nodes].long().masked_fill(nodes == 0, self.start)
        hidden = self.decoder.extend(tokens.to(self.decoder.device), parents.to(self.decoder.device))
        row, column = (scores > -torch.inf).nonzero(as_tuple=True)
        hidden = hidden[row.to(hidden.device), column.to(hidden.device)]
        # Of the whole vocabulary the sum is needed; of single logits those that ids are written with.
        logits = self.head.logits(hidden, self.tokens).cpu()
        before = scores[row, column] - self.head.normalizers(hidden).cpu()
        node, slot = nodes[row, column], first_slot + column

        parent, child = self.trie.children(node)
        kept = ~self.exclusion.of_nodes(row[parent], child)
        parent, child = parent[kept], child[kept]
        end = ((self.trie.item[node] > 0) & ~self.exclusion.of_ends(row, node)).nonzero().flatten()
        going_on = before[parent] + logits[parent, self.column[self.trie.token[child].long()]]
        ending = before[end] + logits[end, self.column[self.eos]]

        # Children, then ends: a row of the result for each prompt.
        children, ends = (
            torch.bincount(row[parent], minlength=self.prompts),
            torch.bincount(row[end], minlength=self.prompts),
        )
        place = torch.cat(
            [
                torch.arange(len(parent)) - (children.cumsum(0) - children)[row[parent]],
                torch.arange(len(end)) - (ends.cumsum(0) - ends - children)[row[end]],
            ]
        )
        at = torch.cat([row[parent], row[end]]), place
        width = int((children + ends).max())
        found = _Continuations(
            torch.full((self.prompts, width), -torch.inf),
            torch.zeros(self.prompts, width, dtype=torch.long),
            torch.zeros(self.prompts, width, dtype=torch.long),
            torch.zeros(self.prompts, width, dtype=torch.bool),
        )
        found.scores[at] = torch.cat([going_on, ending])
        found.nodes[at] = torch.cat([child, node[end]])
        found.slots[at] = torch.cat([slot[parent], slot[end]])
        found.ends[at] = torch.cat([torch.zeros(len(parent), dtype=torch.bool), torch.ones(len(end), dtype=torch.bool)])
        return found

    def answer(self, scores: torch.Tensor, nodes: torch.Tensor, lengths: int | torch.Tensor) -> None:
        """Take sequences that end at `nodes` among the answers; log-probability and length as arrays or one for all."""
        best = torch.cat([self.best, scores / lengths**self.length_penalty], dim=1)
        items = torch.cat([self.items, self.trie.item[nodes].long()], dim=1)
        self.best, place = best.topk(self.kept, dim=1)
        self.items = items.gather(1, place)

    def answers(self) -> list[RankedItems]:
        answers = []
        for items, scores in zip(self.items[:, : self.k].tolist(), self.best[:, : self.k].tolist()):
            count = sum(score > -float("inf") for score in scores)
            answers.append(RankedItems(items[:count], scores[:count]))
        return answers


def _beam_search(
    model, decoder: TreeDecoder, trie: CatalogTrie, exclusion: Exclusion, k: int, num_beams: int, length_penalty: float
) -> list[RankedItems]:
    """The best k items that `num_beams` beams find for each prompt.

    A step is one of transformers' `generate` under [`CatalogLogitsProcessor`]: of the best 2 * num_beams continuations
    the first num_beams that go on are the new beams, and those of the first num_beams that end are answers. Below every
    node that is kept there is an item to answer with, so in the end there are num_beams answers, or all there are. A
    beam that cannot come before the k-th answer any more is given up.
    """
    search = _Search(model, decoder, trie, exclusion, num_beams, k, length_penalty)
    scores = torch.zeros(search.prompts, 1)
    nodes = parents = torch.zeros(search.prompts, 1, dtype=torch.long)
    for length in range(1, trie.longest + 1):
        scores = scores.where(search.can_improve(scores), -torch.inf)
        if bool((scores == -torch.inf).all()):
            break
        found = search.open(nodes, parents, scores)
        best, place = found.scores.topk(min(2 * num_beams, found.scores.shape[1]), dim=1)
        ends = found.ends.gather(1, place)
        nodes, parents = found.nodes.gather(1, place), found.slots.gather(1, place)
        search.answer(best.where(ends, -torch.inf)[:, :num_beams], nodes[:, :num_beams], length)
        scores, going_on = best.where(~ends, -torch.inf).topk(min(num_beams, best.shape[1]), dim=1)
        nodes, parents = nodes.gather(1, going_on), parents.gather(1, going_on)
    return search.answers()


def _exact_search(
    model, decoder: TreeDecoder, trie: CatalogTrie, exclusion: Exclusion, k: int, num_beams: int, length_penalty: float
) -> list[RankedItems]:
    """The best k items of the trie for each prompt, proven.

    Best first: the nodes of highest log-probability are opened, `EXACT_WIDTH` at a time; what follows them waits in the
    frontier. Every item not answered yet lies below a node of the frontier, and its score is at most the bound of that
    node (`_Search.can_improve`). So when no node's bound is above the k-th answer's score, no item is missing.
    """
    search = _Search(model, decoder, trie, exclusion, k, k, length_penalty)
    scores = torch.zeros(search.prompts, 1)
    nodes = parents = torch.zeros(search.prompts, 1, dtype=torch.long)
    while True:
        scores = scores.where(search.can_improve(scores), -torch.inf)
        waiting = int((scores > -torch.inf).sum(1).max())
        if waiting == 0:
            return search.answers()
        scores, place = scores.topk(waiting, dim=1)
        nodes, parents = nodes.gather(1, place), parents.gather(1, place)
        opened = min(EXACT_WIDTH, waiting)
        found = search.open(nodes[:, :opened], parents[:, :opened], scores[:, :opened])
        lengths = decoder.depths.cpu().gather(1, found.slots) + 1
        search.answer(found.scores.where(found.ends, -torch.inf), found.nodes, lengths)
        scores = torch.cat([scores[:, opened:], found.scores.where(~found.ends, -torch.inf)], dim=1)
        nodes = torch.cat([nodes[:, opened:], found.nodes], dim=1)
        parents = torch.cat([parents[:, opened:], found.slots], dim=1)


def _write(model, decoder: TreeDecoder, num_beams: int, min_length: int, max_length: int) -> list[list[int]]:
    """The tokens of the best of `num_beams` beams over the whole vocabulary, for each prompt.

    The beam search of transformers with early stopping: a prompt is done with once it has num_beams sentences, and
    sentences are compared by mean log-probability.
    """
    head, eos = Head(model), model.config.eos_token_id
    prompts = len(decoder.parents)
    scores = torch.zeros(prompts, 1)
    tokens = torch.full((prompts, 1), model.config.decoder_start_token_id)
    parents = torch.zeros(prompts, 1, dtype=torch.long)
    all_tokens = torch.zeros(prompts, 0, dtype=torch.long)
    best = torch.full((prompts, num_beams), -torch.inf)
    # A sentence is its last token and the slot before it; the rest is read off the tree.
    last, ending_at = (
        torch.zeros(prompts, num_beams, dtype=torch.long),
        torch.zeros(prompts, num_beams, dtype=torch.long),
    )
    for length in range(1, max_length):
        first_slot, width = all_tokens.shape[1], tokens.shape[1]
        all_tokens = torch.cat([all_tokens, tokens], dim=1)
        hidden = decoder.extend(tokens.to(decoder.device), parents.to(decoder.device))
        row, column = (scores > -torch.inf).nonzero(as_tuple=True)
        hidden = hidden[row.to(hidden.device), column.to(hidden.device)]
        following, token = head.best(hidden, 2 * num_beams, without=eos if length < min_length else None)
        reached = torch.full((prompts, width, 2 * num_beams), -torch.inf)
        reached[row, column] = scores[row, column].unsqueeze(1) + following.cpu()
        candidates = torch.zeros(prompts, width, 2 * num_beams, dtype=torch.long)
        candidates[row, column] = token.cpu()

        reached, place = reached.flatten(1).topk(2 * num_beams, dim=1)
        candidates = candidates.flatten(1).gather(1, place)
        slots = first_slot + place // (2 * num_beams)
        ends = (candidates == eos) | (length == max_length - 1)
        ended = (reached / length).where(ends, -torch.inf)[:, :num_beams]
        best, order = torch.cat([best, ended], dim=1).topk(num_beams, dim=1)
        last = torch.cat([last, candidates[:, :num_beams]], dim=1).gather(1, order)
        ending_at = torch.cat([ending_at, slots[:, :num_beams]], dim=1).gather(1, order)
        reached = reached.where(~ends & (best == -torch.inf).any(1, keepdim=True), -torch.inf)
        scores, place = reached.topk(num_beams, dim=1)
        if bool((scores == -torch.inf).all()):
            break
        tokens, parents = candidates.gather(1, place), slots.gather(1, place)

    above = decoder.parents.cpu()
    sentences = []
    for row in range(prompts):
        sentence, slot = [int(last[row, 0])], int(ending_at[row, 0])
        while slot > 0:
            sentence.append(int(all_tokens[row, slot]))
            slot = int(above[row, slot])
        sentences.append(sentence[::-1])
    return sentences


def _pairs(user, values, what: str, many: str):
    """Users and their lists, as lists, and whether one user was asked for."""
    users, single = _as_list(user)
    lists = [values] if single else list(values)
    if len(users) != len(lists):
        raise ValueError(f"{len(users)} users but {len(lists)} {many}: give one {what} a user")
    return users, lists, single


def _check_settings(protocol: str, k: int | None, length_penalty: float) -> None:
    if protocol not in ("clean", "published"):
        raise ValueError(f"protocol {protocol!r}: take clean or published")
    if k is not None and k < 1:
        raise ValueError(f"k {k}: give 1 or more")
    if length_penalty < 0:
        raise ValueError(f"length_penalty {length_penalty}: give 0 (log-likelihood) or more")


def _as_list(value):
    single = isinstance(value, str) or not isinstance(value, Sequence)
    return ([value] if single else list(value)), single


def _as_given(tokenizer, users, ranked, single):
    """Give raw ids back to those who asked with raw ids."""
    ranked = [
        RankedItems([tokenizer.to_raw("item", item) for item in row.items], row.scores) if isinstance(u, str) else row
        for u, row in zip(users, ranked)
    ]
    return ranked[0] if single else ranked
