"""Searching the catalog: scores of candidates, beams, the proven best, and free text; all over one [`TreeDecoder`]."""

from typing import NamedTuple

import numpy as np
import torch

from .catalog_trie import CatalogTrie, Exclusion
from .head import Head
from .history import DecoderPrefix
from .tree_decoder import TreeDecoder


# Nodes that the exact search opens at a time for each prompt.
EXACT_WIDTH = 64


class RankedItems(NamedTuple):
    """Items of one query, best first, and their scores (log-likelihood over length to the power of the penalty)."""

    items: list
    scores: list[float]


class Root(NamedTuple):
    """Where the search of each prompt begins: all LongTensors `[prompts]`.

    The token at which an answer begins (the start token, or the last one of a history that the decoder has read), the
    slot before it, the whole-word id of the answer's pieces, and how many tokens stand before the root.
    """

    tokens: torch.Tensor
    parents: torch.Tensor
    marks: torch.Tensor
    depths: torch.Tensor


def root_of(model, decoder: TreeDecoder, prefix: DecoderPrefix | None = None) -> Root:
    """Read the histories, if the decoder reads them, and say where answers begin."""
    prompts = len(decoder.parents)
    if prefix is None:
        zeros = torch.zeros(prompts, dtype=torch.long)
        return Root(zeros + model.config.decoder_start_token_id, zeros, zeros, zeros)
    before = prefix.input_ids.shape[1] - 1
    if before:
        chain = torch.arange(-1, before - 1).clamp(min=0).expand(prompts, before)
        tokens, marks = prefix.input_ids[:, :before], prefix.whole_word_ids[:, :before]
        decoder.extend(*(part.to(decoder.device) for part in (tokens, chain, marks)))
    last = prefix.lengths - 1
    return Root(
        prefix.input_ids.gather(1, last[:, None])[:, 0],
        # After an empty history the root is the start token, which is its own parent.
        torch.where(last > 0, last - 1, before),
        prefix.whole_word_ids.max(1).values + 1,
        last,
    )


def score_catalog(model, states: torch.Tensor, trie: CatalogTrie, added: torch.Tensor | None = None) -> torch.Tensor:
    """Log-probabilities of all items of a trie whose ids are one piece each.

    Parameters
    ----------
    states : float `[prompts, d_model]`
        The decoder's last hidden state after each history.
    added : float32 `[prompts, items]`, optional
        Added to the logits, such as the prior of counted transitions.

    Returns
    -------
    float32 `[prompts, items]`
        In order of the trie's items.
    """
    tokens = trie.token[trie.end.long()].long().to(states.device)
    logits = Head(model).logits(states, tokens)
    return (logits if added is None else logits + added.to(logits.device)).log_softmax(1)


def best_of_catalog(scores: torch.Tensor, trie: CatalogTrie, exclude: list[list[int]], k: int) -> list[RankedItems]:
    """The best k items of each row of `score_catalog`'s scores, but for those to exclude."""
    scores = scores.clone()
    for row, items in enumerate(exclude):
        scores[row, trie.places_of(items)] = -torch.inf
    best, places = scores.topk(min(k, scores.shape[1]), dim=1)
    items = trie.item[trie.end.long()].long()[places.cpu()]
    answers = []
    for row_items, row_scores in zip(items.tolist(), best.tolist()):
        count = sum(score > -float("inf") for score in row_scores)
        answers.append(RankedItems(row_items[:count], row_scores[:count]))
    return answers


def score_candidates(
    model, decoder: TreeDecoder, root: Root, trie: CatalogTrie, lists: list[list[int]], length_penalty: float
) -> list[np.ndarray]:
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
    known = decoder.parents.shape[1]
    tokens = np.repeat(root.tokens.numpy()[:, None], width, axis=1)
    parents = np.full((len(lists), width), known)
    marks = np.zeros((len(lists), width), dtype=np.int64)
    tokens[row[inner], slot[inner]] = trie.token.numpy()[node[inner]]
    parents[row, slot] = known + slot[above]
    parents[:, 0] = root.parents.numpy()
    marks[row[inner], slot[inner]] = root.marks.numpy()[row[inner]]
    device = decoder.device
    hidden = decoder.extend(*(torch.from_numpy(array).to(device) for array in (tokens, parents, marks)))

    hidden = hidden[torch.from_numpy(row).to(device), torch.from_numpy(slot).to(device)]
    head = _head_for(model, trie, device)
    normalizer = head.normalizers(hidden).cpu().double().numpy()
    at, token = torch.from_numpy(above[inner]), trie.token[torch.from_numpy(node[inner])].long()
    edge = np.zeros(len(keys))
    edge[inner] = head.pair_logits(hidden[at.to(device)], token.to(device)).cpu().double().numpy()
    edge[inner] -= normalizer[above[inner]]
    ends = place[: len(items)]
    stop = torch.full((len(ends),), model.config.eos_token_id, device=device)
    scores = head.pair_logits(hidden[torch.from_numpy(ends).to(device)], stop).cpu().double().numpy() - normalizer[ends]
    lengths = np.ones(len(ends))
    at = ends
    while (node[at] > 0).any():  # at the root the edge is 0 and its parent itself
        scores += edge[at]
        lengths += node[at] > 0
        at = above[at]
    return np.split(scores / lengths**length_penalty, np.cumsum(sizes)[:-1])


def _head_for(model, trie: CatalogTrie, device) -> Head:
    """The head of a search: with the history in the decoder, answers compete among the tokens of ids alone."""
    if model.config.history == "encoder":
        return Head(model)
    return Head(model, among=trie.vocabulary(model.config.eos_token_id)[0].to(device))


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

    def __init__(self, model, decoder, root, trie, exclusion, kept, k, length_penalty):
        self.root = root
        self.decoder, self.trie, self.exclusion, self.length_penalty = decoder, trie, exclusion, length_penalty
        self.k, self.kept = k, kept
        self.head = _head_for(model, trie, decoder.device)
        self.eos = model.config.eos_token_id
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
        tokens = torch.where(nodes == 0, self.root.tokens[:, None], self.trie.token[nodes].long())
        marks = torch.where(nodes == 0, 0, self.root.marks[:, None])
        hidden = self.decoder.extend(*(part.to(self.decoder.device) for part in (tokens, parents, marks)))
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


def beam_search(
    model,
    decoder: TreeDecoder,
    root: Root,
    trie: CatalogTrie,
    exclusion: Exclusion,
    k: int,
    num_beams: int,
    length_penalty: float,
) -> list[RankedItems]:
    """The best k items that `num_beams` beams find for each prompt.

    A step is one of transformers' `generate` under [`CatalogLogitsProcessor`]: of the best 2 * num_beams continuations
    the first num_beams that go on are the new beams, and those of the first num_beams that end are answers. Below every
    node that is kept there is an item to answer with, so in the end there are num_beams answers, or all there are. A
    beam that cannot come before the k-th answer any more is given up.
    """
    search = _Search(model, decoder, root, trie, exclusion, num_beams, k, length_penalty)
    scores = torch.zeros(search.prompts, 1)
    nodes, parents = torch.zeros(search.prompts, 1, dtype=torch.long), root.parents[:, None]
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


def exact_search(
    model, decoder: TreeDecoder, root: Root, trie: CatalogTrie, exclusion: Exclusion, k: int, length_penalty: float
) -> list[RankedItems]:
    """The best k items of the trie for each prompt, proven (up to the rounding of sums).

    Best first: the nodes of highest log-probability are opened, `EXACT_WIDTH` at a time; what follows them waits in the
    frontier. Every item not answered yet lies below a node of the frontier, and its score is at most the bound of that
    node (`_Search.can_improve`). So when no node's bound is above the k-th answer's score, no item is missing.
    """
    search = _Search(model, decoder, root, trie, exclusion, k, k, length_penalty)
    scores = torch.zeros(search.prompts, 1)
    nodes, parents = torch.zeros(search.prompts, 1, dtype=torch.long), root.parents[:, None]
    while True:
        scores = scores.where(search.can_improve(scores), -torch.inf)
        waiting = int((scores > -torch.inf).sum(1).max())
        if waiting == 0:
            return search.answers()
        scores, place = scores.topk(waiting, dim=1)
        nodes, parents = nodes.gather(1, place), parents.gather(1, place)
        opened = min(EXACT_WIDTH, waiting)
        found = search.open(nodes[:, :opened], parents[:, :opened], scores[:, :opened])
        lengths = decoder.depths.cpu().gather(1, found.slots) + 1 - root.depths[:, None]
        search.answer(found.scores.where(found.ends, -torch.inf), found.nodes, lengths)
        scores = torch.cat([scores[:, opened:], found.scores.where(~found.ends, -torch.inf)], dim=1)
        nodes = torch.cat([nodes[:, opened:], found.nodes], dim=1)
        parents = torch.cat([parents[:, opened:], found.slots], dim=1)


def write(
    model, decoder: TreeDecoder, num_beams: int, min_length: int, max_length: int, no_repeat: int = 0
) -> list[list[tuple[list[int], float]]]:
    """For each prompt, the sentences that `num_beams` beams over the whole vocabulary end with, best first: the tokens
    of each and their mean log-probability.

    The beam search of transformers with early stopping: a prompt is done with once it has num_beams sentences, and
    sentences are compared by mean log-probability. No `no_repeat` tokens in a row stand in a sentence twice (its
    `no_repeat_ngram_size`; 0: they may).
    """
    head, eos = Head(model), model.config.eos_token_id
    prompts = len(decoder.parents)
    scores = torch.zeros(prompts, 1)
    tokens = torch.full((prompts, 1), model.config.decoder_start_token_id)
    parents = torch.zeros(prompts, 1, dtype=torch.long)
    all_tokens = torch.zeros(prompts, 0, dtype=torch.long)
    written = tokens.unsqueeze(2)  # of each beam, its tokens, kept for no_repeat: [prompts, beams, length]
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
        # As many more as may be repetitions.
        count = 2 * num_beams + (length if no_repeat else 0)
        following, token = head.best(hidden, count, without=eos if length < min_length else None)
        reached = torch.full((prompts, width, count), -torch.inf)
        reached[row, column] = scores[row, column].unsqueeze(1) + following.cpu()
        candidates = torch.zeros(prompts, width, count, dtype=torch.long)
        candidates[row, column] = token.cpu()
        if no_repeat:
            reached = reached.where(~_repeats(written, candidates, no_repeat), -torch.inf)

        reached, place = reached.flatten(1).topk(2 * num_beams, dim=1)
        candidates = candidates.flatten(1).gather(1, place)
        slots = first_slot + place // count
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
        if no_repeat:
            before = (parents - first_slot).unsqueeze(2).expand(-1, -1, length)
            written = torch.cat([written.gather(1, before), tokens.unsqueeze(2)], dim=2)

    above = decoder.parents.cpu()
    sentences = []
    for row in range(prompts):
        found = []
        for beam in range(num_beams):
            if best[row, beam] == -torch.inf:
                break
            sentence, slot = [int(last[row, beam])], int(ending_at[row, beam])
            while slot > 0:
                sentence.append(int(all_tokens[row, slot]))
                slot = int(above[row, slot])
            found.append((sentence[::-1], float(best[row, beam])))
        sentences.append(found)
    return sentences


def _repeats(written: torch.Tensor, following: torch.Tensor, size: int) -> torch.Tensor:
    """Which tokens would make a beam say `size` tokens in a row again: bool `[prompts, beams, following]`.

    `written` `[prompts, beams, length]` begins with the start token, `following` `[prompts, beams, following]`.
    """
    length = written.shape[2]
    if length < size:
        return torch.zeros_like(following, dtype=torch.bool)
    runs = written.unfold(2, size, 1)  # [prompts, beams, runs, size]
    same = (runs[..., :-1] == written[:, :, None, length - size + 1 :]).all(3)
    return ((runs[..., -1:] == following.unsqueeze(2)) & same.unsqueeze(3)).any(2)


def score_sentences(model, decoder: TreeDecoder, sentences: list[list[list[int]]]) -> list[list[float]]:
    """The mean log-probability of given sentences (tokens with `</s>`) after each prompt, as `write` compares its own.

    All sentences of a prompt are read at once, as branches below one start token.
    """
    width = 1 + max(sum(len(one) - 1 for one in row) for row in sentences)
    tokens = np.full((len(sentences), width), model.config.decoder_start_token_id)
    parents = np.zeros((len(sentences), width), dtype=np.int64)
    rows, slots, following, ends = [], [], [], []
    for row, candidates in enumerate(sentences):
        free = 1
        for sentence in candidates:
            end = free + len(sentence) - 1
            places = [0, *range(free, end)]
            tokens[row, free:end], parents[row, free:end] = sentence[:-1], places[:-1]
            rows += [row] * len(sentence)
            slots += places
            following += sentence
            ends.append(len(rows))
            free = end
    tokens, parents = torch.from_numpy(tokens), torch.from_numpy(parents)
    head = Head(model)
    hidden = decoder.extend(tokens.to(decoder.device), parents.to(decoder.device))[rows, slots]
    logits = head.pair_logits(hidden, torch.tensor(following, device=decoder.device)) - head.normalizers(hidden)
    means = iter([float(part.mean()) for part in np.split(logits.cpu().double().numpy(), ends[:-1])])
    return [[next(means) for _ in candidates] for candidates in sentences]
