"""What an explanation's support and match count when one of several is chosen: the weight that is best on validation.

choose_evidence_weight(model, tokenizer, data.texts["validation"], seed=0)     # sets config.evidence_weight
"""

import numpy as np
import torch

from modeling_rdrec.explaining import Question, choose, weigh
from rdrec.tasks.data import Texts
from rdrec.tasks.metric import compute
from rdrec.tasks.mixture import VALIDATION_STREAM


WEIGHTS = (0.0, 1.0, 2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
AS_LIKE = 0.9  # of the ROUGE-1 of the most likely sentences
# Explanations that the weights are compared on.
ROWS, ROWS_A_BATCH = 1000, 64


@torch.inference_mode()
def choose_evidence_weight(
    model, tokenizer, texts: Texts, seed: int, max_samples: int | None = None
) -> dict[str, float | dict]:
    """Set `config.evidence_weight` to the weight with the best mean of ROUGE-1 and feature matching.

    ROUGE alone likes what most sentences say; whether the user's own sentence and the chosen one are about the same
    feature is what tells an explanation of this purchase from one of any. It may not be bought with much likeness: a
    weight that keeps less than `AS_LIKE` of the ROUGE-1 of the most likely sentences is not taken.

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
        The chosen `weight`, and `rouge-1-f` and `fmr` in percent "without" (weight 0) and "with" it.
    """
    most = min(ROWS, len(texts), len(texts) if max_samples is None else max_samples)
    rows = np.sort(np.random.default_rng([seed, VALIDATION_STREAM, 2]).choice(len(texts), size=most, replace=False))
    found = []
    for start in range(0, most, ROWS_A_BATCH):
        questions = [Question(texts.user[row], texts.item[row]) for row in rows[start : start + ROWS_A_BATCH]]
        found += weigh(model, tokenizer, questions, "explanation")
    asked = {"references": [texts.explanation[row] for row in rows], "external": False}
    asked["features"] = [texts.feature[row] or "" for row in rows]
    scores = []
    for weight in WEIGHTS:
        chosen = [one.texts[place] if (place := choose(one, weight)) is not None else "" for one in found]
        found_out = compute("explanation", predictions=chosen, **asked)
        scores.append({name: found_out[name] for name in ("rouge-1-f", "fmr")})
    least = AS_LIKE * scores[0]["rouge-1-f"]
    best = int(np.argmax([sum(row.values()) if row["rouge-1-f"] >= least else -1.0 for row in scores]))
    model.config.evidence_weight = WEIGHTS[best]
    return {"weight": WEIGHTS[best], "without": scores[0], "with": scores[best]}
