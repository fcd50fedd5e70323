"""How good a model is while it is trained: the loss of texts, and how it ranks the next item of held-out users.

losses = text_losses(model, collator, rows, accelerator, batch_size=64)
ndcg = ranking(model, tokenizer, data, users, accelerator)["ndcg@10"]
"""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, send_to_device

from rdrec.tasks.collator import Collator
from rdrec.tasks.data import TaskData
from rdrec.tasks.mixture import FAMILIES, VALIDATION_STREAM, Row
from rdrec.tasks.scores import hit_and_ndcg


USERS_A_BATCH = 256


def some_users(data: TaskData, seed: int, max_samples: int | None) -> np.ndarray:
    """Users to validate on, counted from 0: all, or so many drawn by seed; int64, ascending."""
    users = np.flatnonzero([len(items) >= 3 for items in data.sequences])
    if max_samples is None or max_samples >= len(users):
        return users
    rng = np.random.default_rng([seed, VALIDATION_STREAM, 1])
    return np.sort(rng.choice(users, size=max_samples, replace=False))


@torch.inference_mode()
def ranking(model, tokenizer, data: TaskData, users: Sequence[int], accelerator: Accelerator) -> dict[str, float]:
    """HR@10 and NDCG@10 of the validation items after the training parts; each process ranks for some of the users.

    The whole catalog without the history is ranked; `model` is unwrapped and in evaluation mode.
    """
    mine = users[accelerator.process_index :: accelerator.num_processes]
    ranks: list[float] = []
    for start in range(0, len(mine), USERS_A_BATCH):
        rows = mine[start : start + USERS_A_BATCH]
        answers = model.recommend(
            tokenizer,
            history=[data.sequences[row][:-2] for row in rows],
            user=[int(row) + 1 for row in rows],
            k=10,
            internal_ids=True,
        )
        targets = [int(data.sequences[row][-2]) for row in rows]
        ranks += [
            answer.items.index(target) + 1 if target in answer.items else np.inf
            for target, answer in zip(targets, answers)
        ]
    if accelerator.num_processes > 1:
        ranks = [rank for part in gather_object([ranks]) for rank in part]
    return hit_and_ndcg(np.array(ranks), [10])


@torch.no_grad()
def text_losses(
    model, collator: Collator, rows: Sequence[Row], accelerator: Accelerator, batch_size: int
) -> dict[str, float]:
    """Mean loss per target token of the rows of each family; `model` is unwrapped and in evaluation mode."""
    losses = {}
    for family in FAMILIES:
        chosen = [row for row in rows if row.family == family]
        if not chosen:
            continue
        # Apple's GPUs have no float64.
        dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
        total = torch.zeros(2, dtype=dtype, device=accelerator.device)
        starts = range(0, len(chosen), batch_size)
        for start in list(starts)[accelerator.process_index :: accelerator.num_processes]:
            batch = collator(chosen[start : start + batch_size])
            for _, group in batch["groups"]:
                group = send_to_device(group, accelerator.device, non_blocking=True)
                # A batch is computed in groups of similar lengths, whose losses add up to its mean.
                total[0] += model(**group, num_items_in_batch=batch["num_items"]).loss.to(dtype) * batch["num_items"]
            total[1] += batch["num_items"]
        total = accelerator.reduce(total)
        losses[family] = float(total[0] / total[1])
    return losses
