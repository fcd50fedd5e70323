"""What a dataset's card says of its tables, measured on the tables themselves: leaks, teachers, grounding.

measure(tables)["id_order"]["hr@5"]      # what "the last id plus one, plus two, …" reaches
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from dataset_builder.leaks import held_out_texts, id_order_leak
from dataset_builder.rationales import RATIONALE_TASKS
from dataset_builder.tables import Tables
from rdrec.grounding.score import THRESHOLD


def measure(tables: Tables) -> dict[str, Any]:
    """All measures of a built dataset.

    Returns
    -------
    dict
        `id_order`: HR@5 and NDCG@5 on the test items of "the last id plus one, plus two, …", and HR@5 by chance;
        `held_out_texts`: training texts that belong to a validation or test interaction; `teachers`: (teacher, prompt)
        to rows; `grounding`: for each half its scored rows and the share of them below the threshold of
        `python -m rdrec.grounding`; `choices`: for each half, what the audit's policy chose, to rows.
    """
    return {
        "id_order": id_order_leak(tables),
        "held_out_texts": held_out_texts(tables),
        "teachers": teachers(tables),
        "grounding": grounding(tables),
        "choices": choices(tables),
    }


def _provenance(tables: Tables) -> pa.Table:
    return pa.concat_tables(tables.rationales.values())


def teachers(tables: Tables) -> Counter[tuple[str, str]]:
    """Rows with a rationale, by teacher and prompt version."""
    rows = _provenance(tables)["provenance"].to_pylist()
    return Counter((str(row["teacher"]), str(row["prompt"])) for row in rows if row is not None)


def grounding(tables: Tables) -> dict[str, tuple[int, float]]:
    """For each half that has grounding scores: scored rows, and the share of them below the threshold."""
    rows = [row for row in _provenance(tables)["provenance"].to_pylist() if row is not None]
    found = {}
    for half in RATIONALE_TASKS:
        scores = [row[f"{half}_grounding"] for row in rows if row[f"{half}_grounding"] is not None]
        if scores:
            found[half] = (len(scores), float(np.mean(np.array(scores) < THRESHOLD)))
    return found


def choices(tables: Tables) -> dict[str, Counter[str]]:
    """For each half that a policy settled: what it chose (kept, asked_again, own_sentence, left_empty), to rows."""
    rows = [row for row in _provenance(tables)["provenance"].to_pylist() if row is not None]
    found = {half: Counter(row[f"{half}_choice"] for row in rows if row[f"{half}_choice"]) for half in RATIONALE_TASKS}
    return {half: counts for half, counts in found.items() if counts}
