"""What is each part of the evidence worth to explanations? Parts are taken away when answering, not in training.

    python -m research.explanation_ablations runs/seeds/sample-1 runs/seeds/sample-2 --dataset sample
    python -m research.explanation_ablations runs/seeds/mi-1 --dataset data/musical_instruments --arms all item user

Each model (trained with evidence, on --dataset) explains the test rows anew with what an arm leaves of its table:

    all              as it is
    weight 0         the most likely sentence, as in the paper
    item, user       what is known of the item alone, or of the user alone (then nothing is quoted)
    sentences        sentences of reviews and the catalog alone: no rationales
    corrupt N        N percent of the training rationales are those of another review (`studies/corrupt.py`)
    FOLDER           another build of the same reviews, with other rationales, such as audited ones

Printed is a Markdown table: by arm, the mean ± standard deviation over the models of the metrics of
`metrics/explanation`, of the share that the item's reviews support, and on the sample of what is claimed against the
planted truth. All in percent.
"""

import argparse
import statistics
from collections import defaultdict

import numpy as np

from dataset_builder.tables import Tables
from modeling_rdrec import RDRecForConditionalGeneration, RDRecTokenizer
from modeling_rdrec.evidence import KINDS, EvidenceTable
from rdrec.errors import UserError
from rdrec.evaluation.explanations import answer_texts, score_texts, supported, told_truth
from rdrec.sample.build import load_tables_of
from rdrec.tasks.data import TaskData
from studies.corrupt import corrupt


ARMS = ["all", "weight 0", "item", "user", "sentences", "corrupt 25", "corrupt 100"]
SHOWN = ("bleu-1", "bleu-4", "rouge-1-f", "rouge-l-f", "fmr", "usr")


def left_of(table: EvidenceTable, arm: str, tables: Tables, seed: int) -> EvidenceTable:
    """What an arm leaves of a table of evidence."""
    if arm in ("item", "user"):
        rows = table.rows.copy()
        rows["user" if arm == "item" else "item"] = 0
        return EvidenceTable(rows, table.content)
    if arm == "sentences":
        return TaskData(tables).evidence(["catalog", "explanation"])
    kinds = [KINDS[kind] for kind in np.unique(table.rows["kind"])]
    if arm.startswith("corrupt"):
        return TaskData(corrupt(tables, int(arm.split()[1]) / 100, seed)).evidence(kinds)
    if arm not in ARMS:
        other = load_tables_of(arm)
        if not other.catalog.equals(tables.catalog):
            raise UserError(f"{arm}: another catalog than --dataset: build it from the same reviews and seed")
        return TaskData(other).evidence(kinds)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of models, one a seed")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--arms", nargs="+", default=ARMS, help=f"of: {', '.join(ARMS)}, folders")
    parser.add_argument("--seed", type=int, default=0, help="of the rationales that are handed round")
    given = parser.parse_args()
    tables = load_tables_of(given.dataset)
    data = TaskData(tables)
    rows = range(len(data.texts["test"]))
    found: dict[str, dict[str, list[float]]] = {arm: defaultdict(list) for arm in given.arms}
    for name in given.models:
        model = RDRecForConditionalGeneration.from_pretrained(name).eval()
        tokenizer = RDRecTokenizer.from_pretrained(name)
        whole, chosen_weight = tokenizer.evidence, model.config.evidence_weight
        for arm in given.arms:
            tokenizer.evidence = left_of(whole, arm, tables, given.seed)
            model.config.evidence_weight = 0.0 if arm == "weight 0" else chosen_weight
            table = answer_texts(model, tokenizer, data, "test", rows, progress=False)
            # Where nothing is known of the item, explain says nothing; what the model writes is asked for here.
            column = "beams" if arm == "user" else "prediction"
            scores = score_texts(table, data, column)
            figures = {one: scores[one] for one in SHOWN} | {"support": supported(table, data, column)}
            for one, value in (figures | told_truth(table, data, column)).items():
                found[arm][one].append(value)
    names = list(found[given.arms[0]])
    print("| | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for arm, columns in found.items():
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in columns.values()]
        cells = [f"{np.mean(values):.1f} ± {one:.1f}" for values, one in zip(columns.values(), spread)]
        print(f"| {arm} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
