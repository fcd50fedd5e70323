"""Sequential and top-N recommendation for the users of a split (for explanations see `explanations.py`).

    answers = answer_items(model, tokenizer, data, "sequential", split="test", rows=range(100))
    scores = score_items(answers, "sequential")

Sequential ranks the whole catalog but for the user's history and returns 15 items, found by 20 beams inside the catalog
or exactly; top-N scores a user's 100 candidates and returns all. Under `published` both are what the paper's beams
write (`published.py`).
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from modeling_rdrec.configuration_rdrec import FITTED_ON
from modeling_rdrec.prompts import BARE, fill
from rdrec.tasks.data import TaskData
from rdrec.tasks.metric import compute

from .baselines import HELD_OUT
from .batches import batches
from .published import rank_published


CUTS = {"sequential": [5, 10], "topn": [1, 5, 10]}
RETURNED = 15  # of the catalog, for the sequential task
CANDIDATE_STREAM = 201
# Users that are answered at once where the whole catalog is scored and no beams are kept.
USERS_WITHOUT_BEAMS = 256

ITEM_ANSWERS = pa.schema(
    [
        ("user", pa.int64()),
        ("target", pa.int64()),
        ("rank", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float64())),
    ]
)


def count_queries(data: TaskData, task: str, split: str) -> int:
    """Queries of a task: users, or explanation rows of the split."""
    return len(data.texts[split]) if task == "explanation" else len(data.sequences)


def answer_items(
    model,
    tokenizer,
    data: TaskData,
    task: str,
    split: str,
    rows: Sequence[int],
    published: bool = False,
    exact: bool = False,
    length_penalty: float = 0.0,
    batch_size: int = 32,
    seed: int = 0,
    prior: bool = True,
    after_all: bool = False,
    progress: bool = True,
) -> pa.Table:
    """Rank items for users.

    Parameters
    ----------
    task : str
        "sequential" (the whole catalog without the history) or "topn" (100 candidates).
    rows : sequence of int
        Users to answer for, counted from 0.
    published : bool
        Rank as the paper's code does (`published.py`).
    exact : bool
        Sequential: the proven best items instead of those that beams find.
    length_penalty, prior
        As in `model.recommend`.
    seed : int
        Seed of the order in which a prompt names its candidates; each user has an order of its own.
    after_all : bool
        Top-N of a decoder that reads histories: after all items but the target, instead of the training part alone.

    Returns
    -------
    pa.Table
        One row a user: user id, target item, rank from 1 (null: not among the returned), returned items and scores.
    """
    cut = HELD_OUT[split]
    settings = {"length_penalty": length_penalty, "prior": prior, "internal_ids": True}
    if model.config.history == "decoder":
        batch_size = max(batch_size, USERS_WITHOUT_BEAMS)
    # Top-N is asked after what the model was fitted on, the sequential task after all before the target.
    seen = cut if task == "sequential" or after_all else max(cut, FITTED_ON[model.config.fit_on])
    answers = []
    for chunk in batches(rows, batch_size, task, progress):
        users = [row + 1 for row in chunk]
        targets = [int(data.sequences[row][-cut]) for row in chunk]
        histories = [data.sequences[row][:-seen].tolist() for row in chunk]
        lists = [_candidates(data, split, row, seed) for row in chunk] if task == "topn" else histories
        if published:
            ranked = _answer_published(model, tokenizer, task, users, lists)
        elif task == "sequential":
            ranked = model.recommend(tokenizer, histories, user=users, k=RETURNED, exact=exact, **settings)
        else:
            read = histories if model.config.history == "decoder" else None
            ranked = model.rank(tokenizer, lists, history=read, user=users, **settings)
        for user, target, answer in zip(users, targets, ranked):
            rank = answer.items.index(target) + 1 if target in answer.items else None
            answers.append((user, target, rank, answer.items, answer.scores))
    return pa.table([list(column) for column in zip(*answers)] or [[]] * len(ITEM_ANSWERS), schema=ITEM_ANSWERS)


def _candidates(data: TaskData, split: str, row: int, seed: int) -> list[int]:
    positives, negatives = data.candidates[split]
    rng = np.random.default_rng([seed, CANDIDATE_STREAM, row])
    return rng.permutation(np.append(negatives[row], positives[row])).tolist()


def _answer_published(model, tokenizer, task: str, users: list[int], lists: list[list[int]]):
    """The paper's prompts name the history or the candidates; what may be answered is a new item, or a candidate."""
    if task == "topn":
        allowed = [frozenset(row).__contains__ for row in lists]
    else:
        known = tokenizer.num_ids("item")
        allowed = [lambda item, seen=frozenset(row): item not in seen and item <= known for row in lists]
        lists = [row[-model.config.max_history :] for row in lists]
    texts = [fill(BARE[task], user, row) for user, row in zip(users, lists)]
    return rank_published(model, tokenizer, task, texts, allowed)


def score_items(answers: pa.Table, task: str) -> dict[str, float]:
    """HR@k, NDCG@k and MRR of `answer_items`, through `metrics/ranking`."""
    predictions, references = answers["items"].to_pylist(), answers["target"].to_pylist()
    return compute("ranking", predictions=predictions, references=references, k=CUTS[task])


def score_beyond(answers: pa.Table, popularity: np.ndarray, data: TaskData) -> dict[str, float]:
    """Coverage, popularity, novelty and diversity of what `answer_items` recommends, by `metrics/beyond_accuracy`."""
    return compute(
        "beyond_accuracy",
        predictions=answers["items"].to_pylist(),
        popularity=popularity.tolist(),
        num_users=len(data.raw_ids["user"]),
        texts=data.catalog_texts,
    )
