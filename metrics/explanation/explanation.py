"""BLEU-1/4, ROUGE-1/2/L and features of generated explanations, as an `evaluate` metric.

Use it, from the root of the repository, offline:

    evaluate.load("metrics/explanation").compute(predictions=["nice soft brush"], references=["a soft brush"])

The first eleven figures are those the papers on explainable recommendation report (PETER, POD, RDRec), which differ
from the standard tools: unsmoothed BLEU on whitespace tokens, ROUGE-N on sets of n-grams, and a ROUGE-L whose beta
follows the pair. The figures of sacrebleu and rouge-score stand beside them for comparison with other work.

`evaluate` reads the imports of this file line by line, so each import stands on a line of its own.
"""

import math
import re
from collections import Counter

import datasets
import evaluate
import numpy as np
import sacrebleu
from rouge_score import rouge_scorer


_DESCRIPTION = """\
BLEU and ROUGE of generated explanations against one reference each, in percent, computed as the literature on
explainable recommendation does, with the figures of sacrebleu and rouge-score beside them.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): generated explanations; an empty one scores 0 for its row.
    references (list of str): the reference explanation of each row.
    features (list of str): what each reference is about, "" where it is about nothing known. Optional.
    vocabulary (list of str): all features there are; default: those of `features`.
    external (bool): also report sacrebleu and rouge-score, which take some seconds on 10,000 rows. Defaults to True.
Returns:
    All in percent (float).
    bleu-1, bleu-4: corpus BLEU up to that order, unsmoothed, on whitespace tokens.
    rouge-1-*, rouge-2-* (f, p, r): sets of n-grams of each pair, F = 2PR / (P + R + 1e-8), averaged over rows.
    rouge-l-* (f, p, r): longest common subsequence, beta = P / (R + 1e-12),
        F = (1 + beta^2) R P / (R + beta^2 P + 1e-12), averaged over rows.
    usr: unique sentence ratio, different predictions over all predictions.
    With features, each of them a word in lower case:
    fmr: feature matching ratio, the share of rows with a feature whose prediction has it.
    fcr: feature coverage ratio, the share of the vocabulary that any prediction has.
    div: feature diversity, the mean number (not percent) of features that two predictions share; lower is better.
    sacrebleu: sacrebleu's corpus BLEU with its defaults.
    rouge1_rs, rouge2_rs, rougeL_rs: rouge-score's F measure without stemming, averaged over rows.
Examples:
    >>> explanation = evaluate.load("metrics/explanation")
    >>> explanation.compute(predictions=["a soft brush"], references=["a soft brush"], external=False)["bleu-1"]
    100.0
"""

_CITATION = """\
@inproceedings{papineni2002bleu,
  title = {{BLEU}: a method for automatic evaluation of machine translation},
  author = {Papineni, Kishore and Roukos, Salim and Ward, Todd and Zhu, Wei-Jing},
  booktitle = {ACL}, year = {2002}
}
@inproceedings{lin2004rouge,
  title = {{ROUGE}: a package for automatic evaluation of summaries},
  author = {Lin, Chin-Yew},
  booktitle = {Text Summarization Branches Out}, year = {2004}
}
@inproceedings{li2020nete,
  title = {Generate Neural Template Explanations for Recommendation},
  author = {Li, Lei and Zhang, Yongfeng and Chen, Li},
  booktitle = {CIKM}, year = {2020}
}
"""

Tokens = list[str]
WORD = re.compile(r"[a-z]+(?:['-][a-z]+)*")  # as the dataset's builder reads words


def ngrams(tokens: Tokens, order: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a token list, in order, with repeats."""
    return list(zip(*(tokens[start:] for start in range(order)), strict=False))


def corpus_bleu(hypotheses: list[Tokens], references: list[Tokens], max_order: int) -> float:
    """Return unsmoothed corpus BLEU up to `max_order` with one reference a row, in [0, 1] (Papineni et al., 2002)."""
    matches = [0] * max_order
    possible = [0] * max_order
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        for order in range(1, max_order + 1):
            if len(hypothesis) < order:
                break
            possible[order - 1] += len(hypothesis) - order + 1
            # Clipped counts: an n-gram is matched no more often than the reference has it.
            matches[order - 1] += (Counter(ngrams(hypothesis, order)) & Counter(ngrams(reference, order))).total()
    if min(matches) == 0:
        return 0.0
    log_precision = sum(math.log(hit / all_) for hit, all_ in zip(matches, possible, strict=True)) / max_order
    length_ratio = sum(map(len, hypotheses)) / sum(map(len, references))
    return math.exp(log_precision + min(0.0, 1.0 - 1.0 / length_ratio))


def rouge_n(hypothesis: Tokens, reference: Tokens, order: int) -> tuple[float, float, float]:
    """Return (F, P, R) in [0, 1] of the sets of n-grams of one pair."""
    ours, theirs = set(ngrams(hypothesis, order)), set(ngrams(reference, order))
    overlap = len(ours & theirs)
    precision = overlap / len(ours) if ours else 0.0
    recall = overlap / len(theirs) if theirs else 0.0
    return 2.0 * precision * recall / (precision + recall + 1e-8), precision, recall


def lcs_length(first: Tokens, second: Tokens) -> int:
    """Return the length of the longest common subsequence, one big-integer step a token (Hyyrö, 2004)."""
    where: dict[str, int] = {}
    for position, token in enumerate(first):
        where[token] = where.get(token, 0) | 1 << position
    full = (1 << len(first)) - 1
    # A zero bit at position i of `rows` means that the table's column grows by one between rows i and i + 1.
    rows = full
    for token in second:
        match = rows & where.get(token, 0)
        rows = ((rows + match) | (rows - match)) & full
    return len(first) - rows.bit_count()


def rouge_l(hypothesis: Tokens, reference: Tokens) -> tuple[float, float, float]:
    """Return (F, P, R) in [0, 1] of the longest common subsequence of one pair, beta following the pair."""
    length = lcs_length(hypothesis, reference)
    precision = length / len(hypothesis) if hypothesis else 0.0
    recall = length / len(reference) if reference else 0.0
    beta_squared = (precision / (recall + 1e-12)) ** 2
    f_score = (1.0 + beta_squared) * recall * precision / (recall + beta_squared * precision + 1e-12)
    return f_score, precision, recall


def feature_scores(predictions: list[str], features: list[str], vocabulary: list[str]) -> dict[str, float]:
    """Return fmr and fcr in [0, 1], and div, of predictions (Li et al., 2020, section 5.2)."""
    known = {feature.lower() for feature in vocabulary if feature}
    said = [known.intersection(WORD.findall(text.lower())) for text in predictions]
    matched = [feature.lower() in found for feature, found in zip(features, said, strict=True) if feature]
    counts = Counter(feature for found in said for feature in found)
    pairs = len(said) * (len(said) - 1) / 2
    return {
        "fmr": float(np.mean(matched)) if matched else 0.0,
        "fcr": len(counts) / max(1, len(known)),
        "div": sum(count * (count - 1) / 2 for count in counts.values()) / max(1, pairs),
    }


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Explanation(evaluate.Metric):
    """BLEU and ROUGE of explanations as the explainable-recommendation papers report them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add a batch of texts; a ValueError if the numbers of predictions and references differ."""
        # Checked here, before anything is written: the base class would keep a writer open after its own error.
        if predictions is not None and references is not None and len(predictions) != len(references):
            raise ValueError(
                f"explanation: {len(predictions)} predictions but {len(references)} references; give one text for each"
            )
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        features: list[str] | None = None,
        vocabulary: list[str] | None = None,
        external: bool = True,
    ) -> dict[str, float]:
        if not len(predictions):
            raise ValueError("explanation: nothing to score; give at least one prediction and its reference")
        predictions, references = list(predictions), list(references)
        hypotheses = [text.split() for text in predictions]
        targets = [text.split() for text in references]
        pairs = list(zip(hypotheses, targets, strict=True))
        scores = {f"bleu-{order}": corpus_bleu(hypotheses, targets, order) for order in (1, 4)}
        for name, triples in (
            ("1", [rouge_n(hypothesis, target, 1) for hypothesis, target in pairs]),
            ("2", [rouge_n(hypothesis, target, 2) for hypothesis, target in pairs]),
            ("l", [rouge_l(hypothesis, target) for hypothesis, target in pairs]),
        ):
            for part, mean in zip("fpr", np.mean(triples, axis=0), strict=True):
                scores[f"rouge-{name}-{part}"] = float(mean)
        scores["usr"] = len(set(predictions)) / len(predictions)
        if features is not None:
            if len(features) != len(predictions):
                raise ValueError(f"explanation: {len(predictions)} predictions but {len(features)} features")
            known = features if vocabulary is None else vocabulary
            scores |= feature_scores(predictions, features, known)
        if external:
            scores["sacrebleu"] = sacrebleu.corpus_bleu(predictions, [references]).score / 100.0
            kinds = ("rouge1", "rouge2", "rougeL")
            scorer = rouge_scorer.RougeScorer(list(kinds))
            rows = [scorer.score(target, text) for target, text in zip(references, predictions, strict=True)]
            for kind in kinds:
                scores[f"{kind}_rs"] = float(np.mean([row[kind].fmeasure for row in rows]))
        return {name: score if name == "div" else 100.0 * score for name, score in scores.items()}
