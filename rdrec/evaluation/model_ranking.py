"""The three evaluations of RDRec: sequential and top-N recommendation, and explanations.

    answers = answer_items(model, tokenizer, data, "sequential", split="test", rows=range(100))
    scores = score_items(answers, "sequential")

Sequential ranks the whole catalog but for the user's history and returns 15 items, found by 20 beams inside the catalog
or exactly; top-N scores a user's 100 candidates and returns all. Under `published` both are what 20 unconstrained beams
write (paper, section 4.1), of which 15 and 10 are looked at. Explanations: 7 beams, at least 10 tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import evaluate
import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from modeling_rdrec.generation_rdrec import ITEM_BEAMS
from rdrec.tasks.data import TaskData

from .baselines import HELD_OUT


METRICS = Path(__file__).resolve().parents[2] / "metrics"
CUTS = {"sequential": [5, 10], "topn": [1, 5, 10]}
RETURNED = 15  # of the catalog, for the sequential task
CANDIDATE_STREAM = 201

ITEM_ANSWERS = pa.schema(
    [
        ("user", pa.int64()),
        ("target", pa.int64()),
        ("rank", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float64())),
    ]
)
TEXT_ANSWERS = pa.schema(
    [("user", pa.int64()), ("item", pa.int64()), ("prediction", pa.string()), ("reference", pa.string())]
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
    protocol: str = "clean",
    num_beams: int = ITEM_BEAMS,
    exact: bool = False,
    length_penalty: float = 0.0,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> pa.Table:
    """Rank items for users.

    Parameters
    ----------
    task : str
        "sequential" or "topn".
    rows : sequence of int
        Users to answer for, counted from 0.
    protocol : str
        "clean" or "published", as in `model.recommend` and `model.rank`.
    num_beams : int
        Beams of the sequential task, and of both tasks under `published`.
    exact : bool
        Sequential under `clean`: the proven best items instead of those that beams find.
    length_penalty : float
        Under `clean`, as in `model.recommend`.
    seed : int
        Seed of the order in which a prompt names its candidates; each user has an order of its own.

    Returns
    -------
    pa.Table
        One row a user: user id, target item, rank from 1 (null: not among the returned), returned items and scores.
    """
    cut = HELD_OUT[split]
    settings = {"protocol": protocol, "num_beams": num_beams, "length_penalty": length_penalty}
    answers = []
    for chunk in _batches(rows, batch_size, task, progress):
        users = [row + 1 for row in chunk]
        targets = [int(data.sequences[row][-cut]) for row in chunk]
        if task == "sequential":
            histories = [data.sequences[row][:-cut].tolist() for row in chunk]
            ranked = model.recommend(tokenizer, user=users, history=histories, k=RETURNED, exact=exact, **settings)
        else:
            positives, negatives = data.candidates[split]
            lists = [
                np.random.default_rng([seed, CANDIDATE_STREAM, row])
                .permutation(np.append(negatives[row], positives[row]))
                .tolist()
                for row in chunk
            ]
            ranked = model.rank(tokenizer, user=users, candidates=lists, **settings)
        for user, target, answer in zip(users, targets, ranked):
            rank = answer.items.index(target) + 1 if target in answer.items else None
            answers.append((user, target, rank, answer.items, answer.scores))
    return pa.table([list(column) for column in zip(*answers)] or [[]] * len(ITEM_ANSWERS), schema=ITEM_ANSWERS)


def answer_texts(
    model, tokenizer, data: TaskData, split: str, rows: Sequence[int], batch_size: int = 32, progress: bool = True
) -> pa.Table:
    """Write the explanation of each row of a split; columns user, item, prediction, reference."""
    texts = data.texts[split]
    answers = []
    for chunk in _batches(rows, batch_size, "explanation", progress):
        users, items = [texts.user[row] for row in chunk], [texts.item[row] for row in chunk]
        sentences = model.explain(tokenizer, user=users, item=items)
        answers += zip(users, items, sentences, [texts.explanation[row] for row in chunk])
    return pa.table([list(column) for column in zip(*answers)] or [[]] * len(TEXT_ANSWERS), schema=TEXT_ANSWERS)


def score_items(answers: pa.Table, task: str) -> dict[str, float]:
    """HR@k, NDCG@k and MRR of `answer_items`, through `metrics/ranking`."""
    metric = evaluate.load(str(METRICS / "ranking"))
    return metric.compute(
        predictions=answers["items"].to_pylist(), references=answers["target"].to_pylist(), k=CUTS[task]
    )


def score_texts(answers: pa.Table) -> dict[str, float]:
    """BLEU and ROUGE in percent of `answer_texts`, through `metrics/explanation`."""
    metric = evaluate.load(str(METRICS / "explanation"))
    return metric.compute(predictions=answers["prediction"].to_pylist(), references=answers["reference"].to_pylist())


def _batches(rows: Sequence[int], size: int, name: str, progress: bool):
    starts = range(0, len(rows), size)
    with torch.inference_mode():
        for start in tqdm(starts, desc=name, unit="batch", disable=not progress, mininterval=1.0):
            yield list(rows[start : start + size])
