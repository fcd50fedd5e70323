"""What an explanation's support and match count when one of several is chosen: the weight that is best on validation.

choose_evidence_weight(model, tokenizer, data.texts["validation"], seed=0)     # sets config.evidence_weight
"""

import evaluate
import numpy as np
import torch

from modeling_rdrec.explaining import SOURCES, Question, choose, weigh
from modeling_rdrec.generation_rdrec import MAX_EXPLANATION_LENGTH, MIN_EXPLANATION_LENGTH, TEXT_BEAMS
from rdrec.places import HOME
from rdrec.tasks.data import Texts
from rdrec.tasks.mixture import VALIDATION_STREAM


WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# Explanations that the weights are compared on.
ROWS, ROWS_A_BATCH = 1000, 64


@torch.inference_mode()
def choose_evidence_weight(
    model, tokenizer, texts: Texts, seed: int, max_samples: int | None = None
) -> dict[str, float | dict]:
    """Set `config.evidence_weight` to the weight whose chosen explanations are most like the users' own.

    Parameters
    ----------
    model : RDRecForConditionalGeneration
        In evaluation mode.
    texts : Texts
        Of the validation split.
    seed : int
        Draws the rows that are looked at, at most `ROWS` or `max_samples`.

    Returns
    -------
    dict
        The chosen `weight`, and the mean ROUGE-1 (F, percent) `without` (weight 0) and `with` it.
    """
    most = min(ROWS, len(texts), len(texts) if max_samples is None else max_samples)
    rows = np.sort(np.random.default_rng([seed, VALIDATION_STREAM, 2]).choice(len(texts), size=most, replace=False))
    found = []
    for start in range(0, most, ROWS_A_BATCH):
        questions = [Question(texts.user[row], texts.item[row]) for row in rows[start : start + ROWS_A_BATCH]]
        lengths = (MIN_EXPLANATION_LENGTH, MAX_EXPLANATION_LENGTH)
        found += weigh(model, tokenizer, questions, "explanation", SOURCES, TEXT_BEAMS, *lengths)
    metric = evaluate.load(str(HOME / "metrics" / "explanation"))
    references, scores = [texts.explanation[row] for row in rows], []
    for weight in WEIGHTS:
        chosen = [one.texts[place] if (place := choose(one, weight)) is not None else "" for one in found]
        scores.append(metric.compute(predictions=chosen, references=references, external=False)["rouge-1-f"])
    best = int(np.argmax(scores))
    model.config.evidence_weight = WEIGHTS[best]
    return {"weight": WEIGHTS[best], "without": scores[0], "with": scores[best]}
