"""Explanations of a split, and how they are measured: like the user's own sentence, varied, and supported.

    table = answer_texts(model, tokenizer, data, split="test", rows=range(100))
    scores = score_texts(table, data)

Beside the answer stand what the model wrote itself and what it would quote, since both are scored to choose it.
"""

from collections.abc import Sequence

import pyarrow as pa

from modeling_rdrec.explaining import Question, choose, explained, weigh
from rdrec.grounding.score import THRESHOLD, grounding_scores
from rdrec.sample.build import world_from_info
from rdrec.sample.truth import planted_truth
from rdrec.tasks.data import TaskData
from rdrec.tasks.metric import compute

from .batches import batches


TEXT_ANSWERS = pa.schema(
    [
        ("user", pa.int64()),
        ("item", pa.int64()),
        ("prediction", pa.string()),
        ("reference", pa.string()),
        ("feature", pa.string()),
        ("source", pa.string()),
        ("beams", pa.string()),
        ("evidence", pa.string()),
    ]
)


def answer_texts(
    model, tokenizer, data: TaskData, split: str, rows: Sequence[int], batch_size: int = 32, progress: bool = True
) -> pa.Table:
    """The explanation of each row of a split.

    Returns
    -------
    pa.Table
        `prediction` (empty where nothing is known of the item) and its `source`, the user's own sentence as
        `reference` and what it is about as `feature`, and the best of the `beams` and of the `evidence` alone (null for
        a model without).
    """
    texts = data.texts[split]
    table = tokenizer.evidence if model.config.reads_evidence else None
    answers = []
    for chunk in batches(rows, batch_size, "explanation", progress):
        questions = [Question(texts.user[row], texts.item[row]) for row in chunk]
        found = weigh(model, tokenizer, questions, "explanation")
        for row, question, one in zip(chunk, questions, found):
            weight = model.config.evidence_weight
            answer = explained(table, one, choose(one, weight), "explanation")
            places = [choose(one, weight, source) for source in ("beams", "evidence")]
            alone = [None if place is None else one.texts[place] for place in places]
            true = (texts.explanation[row], texts.feature[row] or "")
            answers.append((question.user, question.item, answer.text or "", *true, answer.source, *alone))
    return pa.table([list(column) for column in zip(*answers)] or [[]] * len(TEXT_ANSWERS), schema=TEXT_ANSWERS)


def score_texts(answers: pa.Table, data: TaskData, column: str = "prediction") -> dict[str, float]:
    """BLEU, ROUGE, features and repetition of one column of `answer_texts`, through `metrics/explanation`."""
    return compute(
        "explanation",
        predictions=[text or "" for text in answers[column].to_pylist()],
        references=answers["reference"].to_pylist(),
        features=answers["feature"].to_pylist(),
        vocabulary=sorted({one for texts in data.texts.values() for one in texts.feature if one}),
    )


def variants_of(answers: pa.Table) -> dict[str, str]:
    """Which columns of `answer_texts` stand beside the prediction, by the name of their row in the report."""
    has_evidence = answers["evidence"].null_count < len(answers)
    return {"beams alone": "beams", "evidence alone": "evidence"} if has_evidence else {}


def said_of_items(data: TaskData) -> list[list[str]]:
    """What the catalog and training reviews say of each item, no sentence twice."""
    said: list[list[str]] = [[text] if text else [] for text in data.catalog_texts]
    texts = data.texts["train"]
    for kind in ("item_attributes", "explanation"):
        for item, text in zip(texts.item, getattr(texts, kind)):
            if text:
                said[item - 1].append(text if text.endswith((".", "!", "?")) else f"{text}.")
    return [list(dict.fromkeys(row)) for row in said]


def supported(answers: pa.Table, data: TaskData, column: str = "prediction") -> float:
    """The share of explanations, in percent, that what training reviews say of the item supports.

    Supported: a grounding score of `THRESHOLD` or more (`rdrec/grounding`), all that the item's training reviews and
    its catalog text say taken for the review. An empty one is not supported.
    """
    reviews = [" ".join(row) for row in said_of_items(data)]
    sentences = [text or "" for text in answers[column].to_pylist()]
    scores = grounding_scores([reviews[item - 1] for item in answers["item"].to_pylist()], sentences)
    return 100.0 * sum(score >= THRESHOLD for score in scores) / max(1, len(scores))


def told_truth(answers: pa.Table, data: TaskData, column: str = "prediction") -> dict[str, float]:
    """What explanations of the sample claim against what was planted (`rdrec/sample/truth.py`); nothing elsewhere."""
    if data.info["source"].get("kind") != "sample":
        return {}
    raw = {kind: [data.raw_ids[kind][one - 1] for one in answers[kind].to_pylist()] for kind in ("user", "item")}
    return planted_truth(
        world_from_info(data.info), *raw.values(), [text or "" for text in answers[column].to_pylist()]
    )
