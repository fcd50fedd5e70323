"""How many explanations does what is known of the item support, with evidence and without? Judged by hand.

    python -m research.explanation_support sheet sheet.jsonl --arms runs/none runs/evidence --datasets sample
    python -m research.explanation_support report LABELS.json

`sheet` draws test rows by seed, the same for both arms of a dataset (folders with `eval_test_explanation.parquet`, two
a dataset: without and with evidence), and shuffles them, so that whoever judges does not see which arm wrote a
sentence. It shows what training reviews and the catalog say of the item. It holds review texts and stays out of the
repository. Labels are `{"labels": {id: 1, 0 or null}}`: 1 supported, 0 not, null undecided; an id is DATASET-ARM-ROW.
`report` prints the share of supported sentences of each arm with 95% intervals (Wilson).
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rdrec.durable import whole_file
from rdrec.evaluation.explanations import said_of_items
from rdrec.grounding.report import wilson
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData


DRAW_STREAM, MOST_SENTENCES = 13, 30
ARMS = ("without", "with")


def sheet(path: Path, datasets: list[str], arms: list[Path], count: int, seed: int) -> None:
    """Write the rows to judge as JSON lines: id, explanation, and what is said of the item."""
    rng, rows = np.random.default_rng([seed, DRAW_STREAM]), []
    for number, dataset in enumerate(datasets):
        data = TaskData(load_tables_of(dataset))
        said = said_of_items(data)
        tables = [pq.read_table(arm / "eval_test_explanation.parquet").to_pylist() for arm in arms[2 * number :][:2]]
        for row in sorted(rng.choice(len(tables[0]), count, replace=False).tolist()):
            for arm, table in zip(ARMS, tables):
                answer = table[row]
                known = said[answer["item"] - 1][:MOST_SENTENCES]
                identity = f"{Path(dataset).name}-{arm}-{row}"
                rows.append({"id": identity, "explanation": answer["prediction"], "known_of_the_item": known})
    with whole_file(path) as work, open(work, "w", encoding="utf-8") as stream:
        for place, row in enumerate(rng.permutation(len(rows)).tolist()):
            shown = {"number": place} | {name: value for name, value in rows[row].items() if name != "id"}
            stream.write(json.dumps(shown, ensure_ascii=False) + "\n")
            rows[row]["number"] = place
    key = {row["number"]: row["id"] for row in rows}
    with whole_file(path.with_suffix(".key.json")) as work, open(work, "w", encoding="utf-8") as stream:
        json.dump(key, stream)


def report(labels: dict[str, int | None]) -> str:
    """The share of supported sentences by dataset and arm."""
    judged: dict[tuple[str, str], list[int]] = defaultdict(list)
    for identity, label in labels.items():
        dataset, arm, _ = identity.rsplit("-", 2)
        if label is not None:
            judged[dataset, arm].append(label)
            judged["all", arm].append(label)
    lines = []
    for (dataset, arm), values in sorted(judged.items()):
        low, high = wilson(sum(values), len(values))
        lines.append(
            f"{dataset:24} {arm:8} {np.mean(values):6.1%} of {len(values)} supported ({low:.1%} to {high:.1%})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sheet", "report"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--datasets", nargs="+", default=["sample"])
    parser.add_argument("--arms", nargs="+", type=Path, default=[])
    parser.add_argument("--count", type=int, default=50, help="rows of each dataset")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "report":
        print(report(json.loads(given.file.read_text(encoding="utf-8"))["labels"]))
    else:
        sheet(given.file, given.datasets, given.arms, given.count, given.seed)


if __name__ == "__main__":
    main()
