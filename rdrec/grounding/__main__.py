"""Audit of a set of rationales: how much of it is grounded, and how that hangs on review length.

    python -m rdrec.grounding runs/distilled --reviews reviews.csv.zip
    python -m rdrec.grounding rationales.jsonl --reviews reviews.csv.zip --apply sentence

Prints rates by review length and writes, into the folder of the rationales, `audit.html` (one file, its plot drawn in
SVG) and `audit.jsonl` (score, flags and unsupported words of every half; no review text). `--apply` also writes
`audited.jsonl`, the rationales with the policy's choices, to build a dataset from (nothing is asked again here; what
`distill.py --policy` wrote has its choices already, and the report shows them).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.columns import parse_columns
from dataset_builder.rationales import RATIONALE_TASKS, Identity, ReviewKey, identity_in, read_rationales
from dataset_builder.reviews import read_reviews
from rdrec.durable import whole_file
from rdrec.errors import DatasetError, exit_code

from .flags import HalfAudit, audit_rows
from .policy import FALLBACKS, Policy, apply_policy
from .report import Table, flag_table, length_table, report, text_table, ungrounded_rate_of_rows
from .score import words_of


NAMES = ("rationales.parquet", "rationales.jsonl")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m rdrec.grounding", description=__doc__.splitlines()[0])
    parser.add_argument("rationales", help="folder with rationales.parquet or rationales.jsonl, or such a file")
    parser.add_argument("--reviews", required=True, help="the reviews file that the rationales were written for")
    parser.add_argument("--columns", help="which columns the reviews are in, as distill.py was given them")
    parser.add_argument("--output", help="folder of the reports (default: that of the rationales)")
    parser.add_argument(
        "--apply",
        choices=FALLBACKS,
        help="also write audited.jsonl, where a half that is not good enough gives way to a sentence of the review, or "
        "to nothing",
    )
    return parser.parse_args(arguments)


def find_rationales(path: str | Path) -> Path:
    """The file of rationales in a folder, or the file itself; DatasetError when there is none."""
    path = Path(path)
    if path.is_file():
        return path
    for name in NAMES:
        if (path / name).is_file():
            return path / name
    raise DatasetError(f"{path}: no {' or '.join(NAMES)} here; name the folder or the file that distill.py wrote")


def audit(options: argparse.Namespace) -> None:
    """Audit, write the reports, and print the tables."""
    path = find_rationales(options.rationales)
    folder = Path(options.output) if options.output else path.parent
    found = read_rationales(path, teacher="unknown", prompt="unknown", skipped=Counter())
    if not found:
        raise DatasetError(f"{path}: no rationales; nothing to audit")
    reviews = _reviews_of(found, path, options.reviews, options.columns)
    rows = [_flat(identity, one) for identity, one in found.items()]
    choices = {half: Counter(one["provenance"][f"{half}_choice"] for one in found.values()) for half in RATIONALE_TASKS}
    settled = any(choice for counts in choices.values() for choice in counts)
    if settled and options.apply:
        raise DatasetError(f"{path}: a policy was applied to it already; audit it without --apply")
    audits = audit_rows(rows, reviews, progress=True)
    folder.mkdir(parents=True, exist_ok=True)
    if options.apply:
        made = apply_policy(rows, reviews, Policy(fallback=options.apply), audits=audits)
        choices = {half: Counter(one[f"{half}_choice"] for one in made) for half in RATIONALE_TASKS}
        _write(folder / "audited.jsonl", (json.dumps(one, ensure_ascii=False) + "\n" for one in made))
    _write(folder / "audit.jsonl", _audit_lines([one["review_row"] for one in rows], audits))
    lengths = np.repeat([float(len(words_of(review))) for review in reviews], len(RATIONALE_TASKS))
    table = Table(lengths, np.array([one.score for one in audits]), [one.flags for one in audits])
    if not (settled or options.apply):
        choices = None
    _write(folder / "audit.html", [report(table, path.name, choices)])
    parts = [text_table(length_table(table)), text_table(flag_table(table))]
    parts += [] if choices is None else [_choice_lines(choices)]
    print("\n\n".join([*parts, f"ungrounded, both halves: {ungrounded_rate_of_rows(table)}"]))
    print(f"written to {folder}: audit.html, audit.jsonl" + (", audited.jsonl" if options.apply else ""))


def _reviews_of(found: Mapping[Identity, Any], path: Path, reviews: str, columns: str | None) -> list[str]:
    """The text of each rationale's review, in their order."""
    read = read_reviews(reviews, skipped=Counter(), columns=parse_columns(columns), needs=("text",))
    texts = {identity_in(found, one): one.text for one in read}
    for identity in found:
        if identity not in texts:
            which = f"review_row {identity}" if isinstance(identity, int) else f"the review of {identity[:2]}"
            raise DatasetError(
                f"{path}: {which} is not among the reviews of {reviews}; "
                "give the reviews file that the rationales were written for"
            )
    return [texts[identity] for identity in found]


def _audit_lines(rows: Sequence[int], audits: Sequence[HalfAudit]) -> Iterable[str]:
    for place, row in enumerate(rows):
        of_row = audits[2 * place : 2 * place + 2]
        line = {"review_row": row} | {half: one._asdict() for half, one in zip(RATIONALE_TASKS, of_row, strict=True)}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def _choice_lines(choices: Mapping[str, Counter[str]]) -> str:
    return "\n".join(
        f"{half}: " + ", ".join(f"{choice.replace('_', ' ')} {count:,}" for choice, count in found.most_common())
        for half, found in choices.items()
    )


def _flat(identity: Identity, found: Mapping[str, Any]) -> dict[str, Any]:
    key = identity._asdict() if isinstance(identity, ReviewKey) else {}
    provenance = {name: found["provenance"][name] for name in ("teacher", "prompt")}
    return {"review_row": found["review_row"], **key} | {half: found[half] for half in RATIONALE_TASKS} | provenance


def _write(path: Path, parts: Iterable[str]) -> None:
    with whole_file(path) as work, open(work, "w", encoding="utf-8") as stream:
        stream.writelines(parts)


def main(arguments: list[str] | None = None) -> int:
    """Audit; the exit code is 0, or 2 after an error that the user can mend."""
    options = parse(arguments)
    return exit_code(lambda: audit(options))


if __name__ == "__main__":
    sys.exit(main())
