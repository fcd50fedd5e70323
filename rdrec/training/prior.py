"""The prior of counted transitions: counting, and the weight and offset that rank best on validation.

choose_prior(model, tokenizer, data, users)      # sets config.prior_weight, config.prior_offset
"""

from collections.abc import Sequence

import numpy as np
import torch

from modeling_rdrec.transitions import Transitions
from rdrec.tasks.data import TaskData
from rdrec.tasks.scores import hit_and_ndcg

from .validation import USERS_A_BATCH


WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5)
OFFSETS = (0.02, 0.05, 0.1, 0.3, 1.0)
# Pairs of weight and offset are compared on so many users.
USERS = 8000


def count(tokenizer, data: TaskData, fit_on: str) -> Transitions:
    """Transitions of what the model was fitted on; the tokenizer carries them from now on."""
    tokenizer.transitions = Transitions.count(data.histories(fit_on), data.num_items)
    return tokenizer.transitions


@torch.inference_mode()
def choose_prior(model, tokenizer, data: TaskData, users: Sequence[int]) -> dict[str, dict[str, float]]:
    """Set the weight and offset with the best NDCG@10 on validation, or a weight of 0 if none is better than no prior.

    Parameters
    ----------
    model : RDRecForConditionalGeneration
        In evaluation mode; its ids are pieces of the vocabulary and its history is in the decoder.
    tokenizer : RDRecTokenizer
        Carries the transitions of the training parts.
    users : sequence of int
        Whose validation items are ranked, counted from 0.

    Returns
    -------
    dict
        `hr@10` and `ndcg@10` "without" and "with" the chosen prior, on the users that it was chosen by.
    """
    users = np.asarray(users)
    if len(users) > USERS:
        users = users[np.linspace(0, len(users) - 1, USERS).astype(np.int64)]
    pairs = [(0.0, 1.0), *((weight, offset) for weight in WEIGHTS for offset in OFFSETS)]
    ranks = np.zeros((len(pairs), len(users)))
    counts, trie = tokenizer.transitions, tokenizer.catalog_trie()
    for start in range(0, len(users), USERS_A_BATCH):
        rows = users[start : start + USERS_A_BATCH]
        histories = [data.sequences[row][:-2].tolist() for row in rows]
        named = [int(row) + 1 if model.config.reads_users else None for row in rows]
        for places, scores in model.catalog_scores(tokenizer, named, histories, trie, prior=False):
            scores = scores.cpu()
            for row, place in enumerate(places):
                scores[row, torch.tensor(histories[place]) - 1] = -torch.inf
            targets = torch.tensor([int(data.sequences[rows[place]][-2]) - 1 for place in places])
            ranks[:, start + np.array(places)] = _ranks_with(
                scores, targets, counts.weighted([histories[place] for place in places]), pairs
            )
    found = [hit_and_ndcg(row, [10]) for row in ranks]
    best = int(np.argmax([scores["ndcg@10"] for scores in found]))
    model.config.prior_weight, model.config.prior_offset = pairs[best]
    return {"without": found[0], "with": found[best]}


def _ranks_with(scores: torch.Tensor, targets: torch.Tensor, weighted: np.ndarray, pairs) -> np.ndarray:
    """Rank of each target under each pair of weight and offset, ties against it: float64 `[pairs, users]`.

    Only items with a count move against all others, so the others are compared once.
    """
    rows = torch.arange(len(targets))
    right = scores[rows, targets]
    ordered = scores.sort(dim=1).values
    user, item = np.nonzero(weighted)
    user_t, item_t = torch.from_numpy(user), torch.from_numpy(item)
    value, own = scores[user_t, item_t], torch.from_numpy(weighted)[rows, targets]
    entries = torch.from_numpy(weighted[user, item])
    result = np.zeros((len(pairs), len(targets)))
    for place, (weight, offset) in enumerate(pairs):
        # Relative to an item without a count, whose score stays.
        shift = weight * ((entries + offset).log() - np.log(offset))
        bar = right + weight * ((own + offset).log() - np.log(offset))
        above = ordered.shape[1] - torch.searchsorted(ordered, bar[:, None], side="left")[:, 0]
        counted_above = torch.bincount(user_t, (value >= bar[user_t]).double(), minlength=len(targets))
        shifted_above = torch.bincount(user_t, (value + shift >= bar[user_t]).double(), minlength=len(targets))
        # The target itself is among those not below the bar: as an entry, or, without a count, as one of the others.
        result[place] = (above - counted_above + shifted_above).clamp(min=1).numpy()
    return result
