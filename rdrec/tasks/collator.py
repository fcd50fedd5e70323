"""Rows to padded tensors.

groups = Collator(tokenizer)(rows)["groups"]       # padded batches, each of one task, whose losses add up to the
                                                   # step's
"""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_rdrec.configuration_rdrec import TASKS
from modeling_rdrec.history import spell

from .mixture import HistoryRow, Row


# What another batch costs beside its tokens, in tokens: on two CPU cores one more pass forward and back took as long as
# some 300 tokens at a 2-layer model of 128 dimensions, as some 40 at T5-small (benchmarks/speed.py).
BATCH_COST = 256


class Collator:
    """Rows to padded tensors.

    Parameters
    ----------
    tokenizer : RDRecTokenizer
    max_target_length : int
        Targets are cut to so many tokens, `</s>` included (paper: 20).
    reference_padding : bool
        False (default): batches of one family and of similar length, so that no prompt is padded to a much longer one.
        True: the mixed batch of the paper's code, every row padded to the longest and padding counted as target tokens,
        which a model with `reference_padding` needs in order to equal it.
    config : RDRecConfig, optional
        The model's, where rows are histories that the decoder reads.
    """

    def __init__(self, tokenizer, max_target_length: int = 20, reference_padding: bool = False, config=None):
        self.tokenizer, self.max_target_length, self.config = tokenizer, max_target_length, config
        self.reference_padding = reference_padding

    def __call__(
        self, rows: Sequence[Row | HistoryRow], part: slice = slice(None), negatives: np.ndarray | None = None
    ) -> dict:
        """Tensors of a step.

        Parameters
        ----------
        rows : sequence of Row
            All rows of the step.
        part : slice
            The rows of each family that this process and this accumulation turn compute.
        negatives : np.ndarray, optional
            Items that histories' targets are told from: int64 `[negatives]`; None: all.

        Returns
        -------
        dict
            `groups`: list of (family, batch), families in order of appearance and the batches of each from short to
            long; or one named "mixed". A batch is `{input_ids, attention_mask, whole_word_ids, task_ids, labels,
            target_places}`, int64 `[rows, length]` (`task_ids` `[rows]`); labels are -100 where there is no target,
            `target_places` `[targets]` says where in them, flattened, there is one ("mixed" has none: all count).
            A history's batch has `negatives` and `num_classes` too (see `RDRecForConditionalGeneration.forward`), its
            labels are the tokens of its items, and prompts that are all alike stand in it once.
            `num_items`: target tokens of the whole step, the divisor that makes the losses of all its parts add up to
            the step's mean.
        """
        marks: dict[int, list[int]] = {}
        histories = [place for place, row in enumerate(rows) if isinstance(row, HistoryRow)]
        texts = [place for place, row in enumerate(rows) if isinstance(row, Row)]
        labels: list[list[int]] = [[]] * len(rows)
        if texts:
            targets = [rows[place].target for place in texts]
            encoded = self.tokenizer(targets, truncation=True, max_length=self.max_target_length)["input_ids"]
            for place, target in zip(texts, encoded):
                labels[place] = target
        if histories:
            trie = self.tokenizer.catalog_trie()
            tokens, words, lengths = spell(trie, [rows[place].items for place in histories], self.config)
            ends = np.cumsum(lengths)[:-1]
            for place, row_tokens in zip(histories, np.split(tokens, ends)):
                labels[place] = row_tokens.tolist()
            if not self.config.ids_are_pieces:
                for place, row_marks in zip(histories, np.split(words, ends)):
                    # The decoder's inputs are the targets moved up by one.
                    marks[place] = [0, *row_marks[:-1].tolist()]
            choices = self._choices(trie, negatives)
        if self.reference_padding:
            # The other processes' rows matter to ours, by their length.
            longest = max(map(len, labels))
            mixed = self.tokenizer.pad(self._encode(rows), return_tensors="pt") | {
                "task_ids": torch.tensor([TASKS.index(row.task) for row in rows]),
                "labels": _padded(labels),
            }
            return {
                "groups": [("mixed", {name: tensor[part] for name, tensor in mixed.items()})],
                "num_items": len(rows) * longest,
            }
        members: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            members.setdefault(row.family, []).append(place)
        groups = []
        for family, all_places in members.items():
            places = all_places[part]
            if not places:
                continue
            if isinstance(rows[places[0]], HistoryRow):
                for bucket in length_buckets([len(labels[i]) for i in places]):
                    chosen = [places[i] for i in bucket]
                    groups.append((family, self._history_batch(rows, chosen, labels, marks) | choices))
                continue
            prompts = self._encode([rows[i] for i in places])
            for bucket in length_buckets([len(ids) for ids in prompts["input_ids"]]):
                chosen = [places[i] for i in bucket]
                batch = self.tokenizer.pad(
                    {name: [column[i] for i in bucket] for name, column in prompts.items()}, return_tensors="pt"
                )
                batch["task_ids"] = torch.tensor([TASKS.index(rows[i].task) for i in chosen])
                groups.append((family, dict(batch) | _targets([labels[i] for i in chosen])))
        return {"groups": groups, "num_items": sum(map(len, labels))}

    def _history_batch(self, rows, chosen, labels, marks) -> dict:
        prompts = [rows[i].prompt for i in chosen]
        prompts = prompts[:1] if len(set(prompts)) == 1 else prompts
        batch = dict(self.tokenizer(prompts, padding=True, return_tensors="pt"))
        batch["task_ids"] = torch.full((len(prompts),), TASKS.index("sequential"))
        if marks:
            batch["decoder_whole_word_ids"] = _padded([marks[i] for i in chosen], 0)
        return batch | _targets([labels[i] for i in chosen])

    def _choices(self, trie, negatives: np.ndarray | None) -> dict:
        """What a step's history targets are told from, and among how many tokens they are."""
        classes = trie.vocabulary(None if self.config.ids_are_pieces else self.config.eos_token_id)[0]
        # Ids of several pieces are written with few tokens: then all of them are told apart.
        sampled = negatives is not None and self.config.ids_are_pieces
        return {
            "num_classes": len(classes),
            "negatives": torch.from_numpy(trie.spell(negatives)[0]) if sampled else classes,
        }

    def _encode(self, rows: Sequence[Row]) -> dict[str, list[list[int]]]:
        return dict(self.tokenizer([row.prompt for row in rows]))


def length_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Share rows among batches so that padding and the cost of further batches are least together.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each row.

    Returns
    -------
    list of list of int
        Places in `lengths`, each once, the batches from short to long; a batch of `n` rows, the longest of `m` tokens,
        counts `n * m + BATCH_COST`.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = np.asarray(lengths)[order]
    # least[j]: the least cost of the j shortest rows; start[j]: where the last of their batches begins.
    least, start = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        costs = least[:end] + (end - np.arange(end)) * ordered[end - 1] + BATCH_COST
        start[end] = costs.argmin()
        least[end] = costs[start[end]]
    buckets, end = [], len(order)
    while end:
        buckets.append(order[start[end] : end].tolist())
        end = start[end]
    return buckets[::-1]


def _targets(labels: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    padded = _padded(labels)
    return {"labels": padded, "target_places": (padded.flatten() != -100).nonzero()[:, 0]}


def _padded(rows: Sequence[Sequence[int]], filler: int = -100) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])
