"""A built dataset in the form that tasks, training and evaluation read.

data = TaskData(load_tables("data/beauty"))
data.sequences[11][:-2]        # what user 12 bought, oldest first, without the two held-out items
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dataset_builder.tables import Tables


@dataclass
class Texts:
    """Explanations and rationales of one split, column by column."""

    user: list[int]
    item: list[int]
    explanation: list[str]
    user_preference: list[str | None]
    item_attributes: list[str | None]

    def __post_init__(self):
        halves = zip(self.user_preference, self.item_attributes, strict=True)
        self.rationale_rows = np.flatnonzero([bool(a or b) for a, b in halves])

    def __len__(self) -> int:
        return len(self.user)


class TaskData:
    """A built dataset in the form that tasks, training and evaluation read.

    Attributes
    ----------
    sequences : list of int64 arrays
        Items of user `u` (`sequences[u - 1]`), oldest first: `[:-2]` trains, `[-2]` validates, `[-1]` tests.
    texts : dict of str to Texts
        Splits train, validation, test.
    candidates : dict of str to (positive int64 [users], negatives int64 [users, n])
        Splits validation and test.
    num_items : int
    protocol : str
    """

    def __init__(self, tables: Tables):
        self.info = tables.info
        self.protocol = tables.info["protocol"]
        items = tables.interactions.column("items").combine_chunks()
        offsets = items.offsets.to_numpy()
        self.sequences = np.split(items.values.to_numpy(), offsets[1:-1])
        kinds = np.asarray(tables.catalog.column("kind").to_pylist())
        raw_ids = np.asarray(tables.catalog.column("raw_id").to_pylist(), dtype=object)
        self.raw_ids = {kind: raw_ids[kinds == kind].tolist() for kind in ("user", "item")}
        self.num_items = len(self.raw_ids["item"])
        self.texts = {
            split: Texts(**{name: table.column(name).to_pylist() for name in Texts.__dataclass_fields__})
            for split, table in tables.rationales.items()
        }
        self.candidates = {}
        for split, table in tables.candidates.items():
            negatives = table.column("negatives").combine_chunks()
            self.candidates[split] = (
                table.column("positive").to_numpy(),
                negatives.values.to_numpy().reshape(len(negatives), -1),
            )
        self.num_negatives = self.candidates["test"][1].shape[1]

    def item_words(self, items: Iterable[int]) -> str:
        return " ".join(f"item_{item}" for item in items)

    def prompt(self, task: str, wording: str, user: int = 0, items: Sequence[int] = ()) -> str:
        """Fill a wording; `items` holds the one item of an explanation, the history or the candidates."""
        return wording.format(user=f"user_{user}", item=self.item_words(items), items=self.item_words(items))
