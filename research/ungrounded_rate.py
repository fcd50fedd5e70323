"""How many halves are ungrounded with prompt `published`, and with `grounded` and the policy? Judged by hand.

    python -m research.ungrounded_rate draw R.jsonl --reviews reviews.csv.zip --leave_out grounding_labels.json
    python distill.py --reviews R.jsonl --endpoint URL --output runs/published --prompt published
    python distill.py --reviews R.jsonl --endpoint URL --output runs/grounded --policy sentence
    python -m research.ungrounded_rate sheet sheet.jsonl --reviews R.jsonl --arms runs/published runs/grounded
    python -m research.ungrounded_rate report LABELS.json --reviews R.jsonl --arms runs/published runs/grounded

`draw` takes 1,000 reviews by seed, but for those that the scorer was fitted or tried on.
`sheet` draws halves of both arms by seed and shuffles them, so that whoever judges does not see which arm a half is
of; it holds review texts and stays out of the repository, and beside it lies the key from its numbers to ids. Labels
are `{"labels": {id: 1, 0 or null}}`: 1 grounded, 0 not, null undecided. The policy chooses by the score, so the score
alone may not judge it. `report` prints, for each arm, (a) the share of the judged halves that are not grounded, and (b)
the same for all halves, from the scores corrected by what the judged ones show them to be off by; and their ratio.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from dataset_builder.rationales import RATIONALE_TASKS
from dataset_builder.reviews import read_reviews
from rdrec.distillation.run import OUTPUT_FILE
from rdrec.grounding.fit import LABELS_FILE
from rdrec.grounding.report import wilson
from rdrec.grounding.score import grounding_scores


REVIEW_STREAM, DRAW_STREAM, BOOTSTRAP_STREAM = 5, 11, 12
BOOTSTRAPS = 5000


class Half(NamedTuple):
    """One half that an arm delivers. `id` names arm, review row and half."""

    id: str
    review: str
    name: str
    text: str
    choice: str | None


def draw_reviews(source: str, leave_out: list[Path], count: int, seed: int, path: Path) -> None:
    """Write reviews with a text as JSON lines; rows that the scorer's labels or `leave_out` name are not drawn."""
    named = [json.loads(file.read_text(encoding="utf-8")) for file in (LABELS_FILE, *leave_out)]
    known = {row["review_row"] for made in named for row in (made["labels"] if isinstance(made, dict) else made)}
    found = [r for r in read_reviews(source, skipped=Counter()) if r.text.strip() and r.row not in known]
    rng = np.random.default_rng([seed, REVIEW_STREAM])
    with open(path, "w", encoding="utf-8") as stream:
        for place in sorted(rng.choice(len(found), count, replace=False).tolist()):
            review = found[place]
            row = {"reviewerID": review.user, "asin": review.item, "unixReviewTime": review.timestamp}
            stream.write(json.dumps(row | {"reviewText": review.text, "summary": review.summary}) + "\n")


def halves_of_arm(number: int, folder: Path, reviews: dict[int, str]) -> list[Half]:
    """Every half of an arm that is not empty."""
    found = []
    for row in pq.read_table(folder / OUTPUT_FILE).to_pylist():
        for name in RATIONALE_TASKS:
            if row[name]:
                identity = f"{number}-{row['review_row']}-{name}"
                found.append(Half(identity, reviews[row["review_row"]], name, row[name], row.get(f"{name}_choice")))
    return found


def write_sheet(arms: list[list[Half]], counts: list[int], seed: int, path: Path) -> None:
    """Draw so many halves of each arm and write them in random order, under numbers that do not tell the arm."""
    rng = np.random.default_rng([seed, DRAW_STREAM])
    drawn = [
        arm[place]
        for arm, count in zip(arms, counts, strict=True)
        for place in rng.choice(len(arm), min(count, len(arm)), replace=False)
    ]
    order = rng.permutation(len(drawn))
    with open(path, "w", encoding="utf-8") as sheet, open(path.with_suffix(".key.json"), "w") as key:
        for number, place in enumerate(order.tolist()):
            half = drawn[place]
            line = {"number": number, "review": half.review, half.name: half.text}
            sheet.write(json.dumps(line, ensure_ascii=False) + "\n")
        json.dump({number: drawn[place].id for number, place in enumerate(order.tolist())}, key, indent=0)


def corrected(bad: np.ndarray, chance_of_judged: np.ndarray, chance_of_all: np.ndarray) -> tuple[float, float]:
    """Share of ungrounded halves among all, and its standard error.

    The scores' own estimate over all halves plus their mean error over the judged ones (Angelopoulos et al. 2023,
    "Prediction-powered inference", the mean).

    Parameters
    ----------
    bad : np.ndarray
        [m] 1 where a judged half is not grounded.
    chance_of_judged, chance_of_all : np.ndarray
        [m] and [n] 1 - score.
    """
    errors = bad - chance_of_judged
    share = float(chance_of_all.mean() + errors.mean())
    return share, float(np.sqrt(errors.var(ddof=1) / len(errors) + chance_of_all.var(ddof=1) / len(chance_of_all)))


def report(arms: list[list[Half]], names: list[str], labels: dict[str, int | None], seed: int) -> str:
    """The figures of all arms, and the ratio of the last to the first."""
    lines, judged_of_arm, estimates = [], [], []
    for name, arm in zip(names, arms, strict=True):
        scores = np.array(grounding_scores([half.review for half in arm], [half.text for half in arm]))
        labelled = [(place, labels[half.id]) for place, half in enumerate(arm) if half.id in labels]
        decided = [(place, label) for place, label in labelled if label is not None]
        bad = np.array([1 - label for _, label in decided], dtype=float)
        low, high = wilson(int(bad.sum()), len(bad))
        share, error = corrected(bad, 1 - scores[[place for place, _ in decided]], 1 - scores)
        choices = Counter(half.choice for half in arm if half.choice)
        lines += [
            f"{name}: {len(arm):,} halves delivered {dict(choices) or ''}",
            f"  judged {len(bad)} ({len(labelled) - len(bad)} undecided left out): {bad.mean():.1%} ungrounded "
            f"({low:.1%} to {high:.1%})",
            f"  all, scores corrected by the judged: {share:.1%} ({share - 1.96 * error:.1%} to "
            f"{share + 1.96 * error:.1%}); scores alone: {1 - scores.mean():.1%}",
        ]
        judged_of_arm.append(bad)
        estimates.append((share, error))
    rng = np.random.default_rng([seed, BOOTSTRAP_STREAM])
    draws = [rng.choice(bad, (BOOTSTRAPS, len(bad))).mean(axis=1) for bad in (judged_of_arm[0], judged_of_arm[-1])]
    ratios = np.quantile(draws[1] / np.maximum(draws[0], 1e-9), [0.025, 0.975])
    (first, first_error), (last, last_error) = estimates[0], estimates[-1]
    error = last / first * np.hypot(first_error / first, last_error / last)
    lines += [
        f"ratio {names[-1]} / {names[0]}, judged: {judged_of_arm[-1].mean() / judged_of_arm[0].mean():.2f} "
        f"({ratios[0]:.2f} to {ratios[1]:.2f})",
        f"ratio, corrected: {last / first:.2f} "
        f"({last / first - 1.96 * error:.2f} to {last / first + 1.96 * error:.2f})",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("draw", "sheet", "report"))
    parser.add_argument("file", type=Path, help="draw, sheet: written; report: the labels, {id: 1, 0 or null}")
    parser.add_argument("--reviews", required=True)
    parser.add_argument("--arms", nargs="+", type=Path, default=[], help="folders that distill.py wrote")
    parser.add_argument("--leave_out", nargs="+", type=Path, default=[], help="draw: labels of further rows")
    parser.add_argument("--count", type=int, nargs="+", default=[150], help="halves drawn of each arm")
    parser.add_argument("--judged", type=Path, help="labels that are there already; the sheet leaves those halves out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "draw":
        draw_reviews(given.reviews, given.leave_out, 1000, given.seed, given.file)
        return
    reviews = {review.row: review.text for review in read_reviews(given.reviews, skipped=Counter())}
    arms = [halves_of_arm(number, folder, reviews) for number, folder in enumerate(given.arms)]
    if given.what == "sheet":
        judged = json.loads(given.judged.read_text(encoding="utf-8"))["labels"] if given.judged else {}
        fresh = [[half for half in arm if half.id not in judged] for arm in arms]
        counts = given.count * len(arms) if len(given.count) == 1 else given.count
        write_sheet(fresh, counts, given.seed, given.file)
    else:
        labels: dict[str, Any] = json.loads(given.file.read_text(encoding="utf-8"))["labels"]
        print(report(arms, [folder.name for folder in given.arms], labels, given.seed))


if __name__ == "__main__":
    main()
