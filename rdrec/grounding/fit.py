"""Fit the grounding scorer on labels made by hand, and measure it on rows that it was not fitted to.

    python -m rdrec.grounding.fit --reviews reviews.csv.zip --rationales rationales.jsonl \\
        --given grounding_labels.json [--write]

`data/labels.json` holds the labels (row numbers and judgements, no texts). A row's two halves always stay on one
side of a split. Printed: ROC-AUC on the held-out third by a scorer fitted to the rest, across validated folds of all
labels, and on the `--given` file, which nothing is ever fitted to; each with a 95% interval (rows drawn with
replacement), with precision and recall at the threshold, and beside plain signals. `--write` fits all labels and writes
`data/scorer.json` with these figures.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataset_builder.files import describe, existing_file, open_text
from dataset_builder.rationales import RATIONALE_TASKS
from dataset_builder.reviews import read_reviews
from rdrec.durable import write_json
from rdrec.errors import DatasetError, exit_code

from .report import wilson
from .score import FEATURES, SCORER_FILE, THRESHOLD, Scorer, evidence


LABELS_FILE = SCORER_FILE.parent / "labels.json"

RIDGE = 10.0  # of the standardised weights: few labels ask for a strong one; anything from 2 to 30 does as well
UNDECIDED = 0.5  # an undecided half counts half as yes, half as no, with this weight
FOLDS, REPEATS = 10, 5
DRAWS = 2000
FOLD_STREAM, DRAW_STREAM = 1, 2  # numpy.random.default_rng([seed, STREAM])

# Single signals to compare with, by their place in FEATURES; the second number is the sign that makes higher better.
BASELINES = {"missing words": ("missing_words", -1), "sentence similarity": ("nearest_sentence", 1)} | {
    "worst word in context": ("lowest_word", 1)
}


class Labelled(NamedTuple):
    """Features [n, 9], labels [n] (1, 0, nan undecided), review rows [n] and whether each is held out [n]."""

    features: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    held_out: np.ndarray

    def where(self, mask: np.ndarray) -> "Labelled":
        return Labelled(*(column[mask] for column in self))


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Chance that a grounded half scores higher than one that is not, ties counting half; undecided ones left out."""
    yes, no = scores[labels == 1], scores[labels == 0]
    higher = (yes[:, None] > no[None, :]).mean()
    return float(higher + 0.5 * (yes[:, None] == no[None, :]).mean())


def fit(data: Labelled) -> Scorer:
    """Ridge logistic regression by Newton's method."""
    undecided = np.isnan(data.labels)
    target = np.where(undecided, 0.5, data.labels)
    weight = np.where(undecided, UNDECIDED, 1.0)
    mean, scale = data.features.mean(axis=0), data.features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    inputs = np.column_stack([(data.features - mean) / scale, np.ones(len(target))])
    penalty = np.diag([RIDGE] * len(FEATURES) + [0.0])
    beta = np.zeros(inputs.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-inputs @ beta))
        slope = inputs.T @ (weight * (target - chance)) - penalty @ beta
        curve = (inputs * (weight * chance * (1 - chance))[:, None]).T @ inputs + penalty
        step = np.linalg.solve(curve, slope)
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    return Scorer(mean, scale, beta[:-1], float(beta[-1]))


def cross_validated(data: Labelled, seed: int) -> np.ndarray:
    """Scores [n], each by a scorer fitted without the half's row (nor its fold)."""
    values = np.unique(data.rows)
    fold_of = np.random.default_rng([seed, FOLD_STREAM]).permutation(len(values)) % FOLDS
    folds = fold_of[np.searchsorted(values, data.rows)]
    scores = np.empty(len(data.labels))
    for fold in range(FOLDS):
        scores[folds == fold] = fit(data.where(folds != fold)).scores(data.features[folds == fold])
    return scores


def precision_recall(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """At `THRESHOLD`: of the halves called grounded, the share that is; of those that are, the share called so."""
    called = scores >= THRESHOLD
    right = int((called & (labels == 1)).sum())
    figures: dict[str, Any] = {}
    for name, among in (("precision", int((called & (labels >= 0)).sum())), ("recall", int((labels == 1).sum()))):
        figures[name] = round(right / max(1, among), 3)
        figures[f"{name}_interval_95"] = [round(x, 3) for x in wilson(right, among)]
    return figures


def interval(labels: np.ndarray, scores: np.ndarray, rows: np.ndarray, seed: int) -> tuple[float, float]:
    """95% interval of the ROC-AUC: rows, not halves, are drawn with replacement, as a row's halves are alike."""
    rng = np.random.default_rng([seed, DRAW_STREAM])
    values = np.unique(rows)
    places = {row: np.flatnonzero(rows == row) for row in values.tolist()}
    found = []
    for _ in range(DRAWS):
        drawn = np.concatenate([places[row] for row in rng.choice(values, len(values)).tolist()])
        if len(np.unique(labels[drawn][~np.isnan(labels[drawn])])) == 2:
            found.append(roc_auc(labels[drawn], scores[drawn]))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def measure(data: Labelled, scores: np.ndarray, seed: int) -> dict[str, Any]:
    """Figures of one set of halves: counts, ROC-AUC with its interval, precision and recall, plain signals."""
    plain = {
        name: round(roc_auc(data.labels, sign * data.features[:, FEATURES.index(feature)]), 3)
        for name, (feature, sign) in BASELINES.items()
    }
    return {
        "rows": len(np.unique(data.rows)),
        "grounded": int((data.labels == 1).sum()),
        "not_grounded": int((data.labels == 0).sum()),
        "undecided": int(np.isnan(data.labels).sum()),
        "roc_auc": round(roc_auc(data.labels, scores), 3),
        "interval_95": [round(x, 3) for x in interval(data.labels, scores, data.rows, seed)],
        **precision_recall(data.labels, scores),
        "plain_signals": plain,
    }


def read_labelled(labels: Sequence[dict[str, Any]], texts: dict[int, str], rationales: dict[int, Any]) -> Labelled:
    """Features of every labelled half; a label row may carry its own halves, else `rationales` has them."""
    reviews, halves, values, rows, held_out = [], [], [], [], []
    for label in labels:
        row = label["review_row"]
        source = label if RATIONALE_TASKS[0] in label else rationales.get(row)
        if source is None or row not in texts:
            raise DatasetError(f"review_row {row}: labelled, but not in the files given; give those that were")
        for half in RATIONALE_TASKS:
            judged = label[f"{half}_grounded"]
            reviews.append(texts[row])
            halves.append(source[half])
            values.append(np.nan if judged is None else float(judged))
            rows.append(row)
            held_out.append(label.get("part") == "held_out")
    found = evidence(reviews, halves, progress=True)
    features = np.array([np.zeros(len(FEATURES)) if one is None else one.values for one in found])
    return Labelled(features, np.array(values), np.array(rows), np.array(held_out))


def fit_and_measure(own: Labelled, given: Labelled | None, seed: int) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of all own labels, and what scorers like it reach on labels they were not fitted to."""
    rest = own.where(own.held_out)
    figures = {"held_out": measure(rest, fit(own.where(~own.held_out)).scores(rest.features), seed)}
    crossed = [cross_validated(own, seed + i) for i in range(REPEATS)]
    figures["cross_validated"] = measure(own, np.mean(crossed, axis=0), seed)
    figures["cross_validated"]["roc_auc"] = round(float(np.mean([roc_auc(own.labels, one) for one in crossed])), 3)
    scorer = fit(own)
    if given is not None:
        figures["given"] = measure(given, scorer.scores(given.features), seed)
    return scorer, figures


def report(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| halves | rows | grounded / not / undecided | ROC-AUC | precision | recall | plain signals |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, one in figures.items():
        parts = [name, str(one["rows"]), f"{one['grounded']} / {one['not_grounded']} / {one['undecided']}"]
        for figure, bounds in (("roc_auc", "interval_95"), ("precision", None), ("recall", None)):
            low, high = one[bounds or f"{figure}_interval_95"]
            parts.append(f"{one[figure]:.3f} ({low:.3f} to {high:.3f})")
        parts.append(", ".join(f"{signal} {value:.3f}" for signal, value in one["plain_signals"].items()))
        lines.append(f"| {' | '.join(parts)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Fit and measure; the exit code is 0, or 2 after an error that the user can mend."""
    parser = argparse.ArgumentParser(prog="python -m rdrec.grounding.fit", description=__doc__.splitlines()[0])
    parser.add_argument("--reviews", required=True, help="the reviews that were labelled")
    parser.add_argument("--rationales", required=True, help="the rationales that were labelled, JSON lines")
    parser.add_argument("--given", help="further labels with their halves, to measure on only")
    parser.add_argument("--seed", type=int, default=0, help="of folds and intervals (default 0)")
    parser.add_argument("--write", action="store_true", help="write data/scorer.json")
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Fit, measure, print the figures and, if asked to, write the scorer."""
    record = json.loads(LABELS_FILE.read_text(encoding="utf-8"))
    for path in (options.reviews, options.rationales):
        if describe(path)["sha256"] not in record["source"].values():
            raise DatasetError(f"{path}: not the file that was labelled; give that one (see {LABELS_FILE.name})")
    texts = {review.row: review.text for review in read_reviews(options.reviews, skipped=Counter())}
    with open_text(options.rationales) as lines:
        rationales = {row["review_row"]: row for row in map(json.loads, lines)}
    own = read_labelled(record["labels"], texts, rationales)
    given = None
    if options.given:
        with open(existing_file(options.given), encoding="utf-8") as stream:
            given = read_labelled(json.load(stream), texts, {})
    scorer, figures = fit_and_measure(own, given, options.seed)
    print(report(figures))
    if options.write:
        write_scorer(scorer, figures, SCORER_FILE)
        print(f"written to {SCORER_FILE}")


def write_scorer(scorer: Scorer, figures: dict[str, Any], path: Path) -> None:
    """Write the scorer with the figures it was measured at; six digits are plenty."""
    record = {
        "about": "Ridge logistic regression on standardised features; fitted by rdrec/grounding/fit.py to labels.json "
        "(all rows). The figures: held_out, by a scorer fitted to the other rows; cross_validated, over all rows; "
        "given, on labels that nothing was fitted to.",
        "features": list(FEATURES),
        **{name: [round(x, 6) for x in getattr(scorer, name).tolist()] for name in ("mean", "scale", "weights")},
        "intercept": round(scorer.intercept, 6),
        "threshold": THRESHOLD,
        "figures": figures,
    }
    write_json(path, record)


if __name__ == "__main__":
    sys.exit(main())
