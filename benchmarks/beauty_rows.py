"""Rows in the shapes of Amazon Beauty, for speed measurements: real sequences, made-up sentences.

    data = beauty_data(Path("../shared/data/beauty"))
    rows = TaskMixture(data, batch_size=64).rows(step)

The folder holds `sequential.txt.gz` (`user item item …` a line). Users, items, segments and candidates are the real
ones under the `clean` protocol. The sequences come without review texts, so explanations and rationales are drawn
words of 3 to 10 letters, 5 to 25 a sentence; what they cost depends on their number of tokens alone, and most are cut
to the 20 tokens of a target.
"""

from pathlib import Path

import numpy as np

from dataset_builder.paper_import import build_tables_from_reference
from rdrec.tasks.data import TaskData, Texts


MADE_UP_TEXTS = 4000


def beauty_data(folder: Path, seed: int = 0) -> TaskData:
    """The sequences of `folder` with made-up texts for `MADE_UP_TEXTS` of their training interactions."""
    data = TaskData(build_tables_from_reference(folder, domain="beauty", seed=seed))
    rng = np.random.default_rng(seed)
    letters = np.array(list("aaabcdeeeefghiiklmnnoooprsstttuuwy"))

    def sentence() -> str:
        return " ".join("".join(rng.choice(letters, rng.integers(3, 11))) for _ in range(rng.integers(5, 26)))

    users = rng.integers(len(data.sequences), size=MADE_UP_TEXTS)
    items = [int(rng.choice(data.sequences[user][:-2])) for user in users]
    columns = [[sentence() for _ in range(MADE_UP_TEXTS)] for _ in range(3)]
    data.texts["train"] = Texts((users + 1).tolist(), items, *columns)
    return data
