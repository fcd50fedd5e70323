"""A built dataset in the form that tasks, training and evaluation read.

data = TaskData(load_tables("data/beauty"))
data.sequences[11][:-2]        # what user 12 bought, oldest first, without the two held-out items
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset_builder.tables import Tables
from modeling_rdrec.configuration_rdrec import FITTED_ON
from modeling_rdrec.evidence import EvidenceTable


@dataclass
class Texts:
    """Explanations and rationales of one split, column by column."""

    user: list[int]
    item: list[int]
    explanation: list[str]
    feature: list[str | None]
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
    untested : list of int64 arrays
        Items of the users after these, of whom nothing is held out: all trains. None but in a split by time.
    everyone : list of int64 arrays
        Both, by user.
    texts : dict of str to Texts
        Splits train, validation, test.
    candidates : dict of str to (positive int64 [users], negatives int64 [users, n])
        Splits validation and test.
    num_items : int
    catalog_texts : list of str or None
        The catalog's text of each item.
    protocol : str
    """

    def __init__(self, tables: Tables):
        self.info = tables.info
        self.protocol = tables.info["protocol"]
        items = tables.interactions.column("items").combine_chunks()
        offsets = items.offsets.to_numpy()
        self.everyone = np.split(items.values.to_numpy(), offsets[1:-1])
        tested = tables.candidates["test"].num_rows
        self.sequences, self.untested = self.everyone[:tested], self.everyone[tested:]
        kinds = np.asarray(tables.catalog.column("kind").to_pylist())
        raw_ids = np.asarray(tables.catalog.column("raw_id").to_pylist(), dtype=object)
        self.raw_ids = {kind: raw_ids[kinds == kind].tolist() for kind in ("user", "item")}
        self.num_items = len(self.raw_ids["item"])
        self.catalog_texts = [
            text for kind, text in zip(kinds.tolist(), tables.catalog.column("text").to_pylist()) if kind == "item"
        ]
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

    def histories(self, fit_on: str = "train") -> list[np.ndarray]:
        """Each user's items that a model fitted on "train", "train+validation" or "all" may see: int64 arrays."""
        cut = FITTED_ON[fit_on]
        return [*(items[: len(items) - cut] for items in self.sequences), *self.untested]

    def texts_for(self, fit_on: str = "train") -> Texts:
        """Explanations and rationales that a model fitted on these splits may see."""
        splits = {"train": ["train"], "train+validation": ["train", "validation"], "all": list(self.texts)}[fit_on]
        parts = [self.texts[split] for split in splits]
        return Texts(
            **{name: [one for part in parts for one in getattr(part, name)] for name in Texts.__dataclass_fields__}
        )

    def item_texts(self, sources: Sequence[str], fit_on: str = "train") -> list[str]:
        """A text for each item, from what may be known of it: "" where there is nothing.

        Parameters
        ----------
        sources : sequence of str
            "catalog" (the text of the catalog), "explanation", "user_preference", "item_attributes" (of reviews), or
            "none".
        fit_on : str
            Reviews of held-out interactions are left out.
        """
        parts: list[list[str]] = [[text] if "catalog" in sources and text else [] for text in self.catalog_texts]
        texts = self.texts_for(fit_on)
        for source in sources:
            if source not in ("catalog", "none"):
                for item, text in zip(texts.item, getattr(texts, source)):
                    if text:
                        parts[item - 1].append(text)
        return [" ".join(part) for part in parts]

    def evidence(self, sources: Sequence[str], fit_on: str = "train") -> EvidenceTable:
        """What reviews say of items and users, with the texts' row as the review.

        Parameters
        ----------
        sources : sequence of str
            As in `item_texts`.
        fit_on : str
            Reviews of held-out interactions are left out.
        """
        texts, sentences = self.texts_for(fit_on), []
        if "catalog" in sources:
            sentences += [(0, item, -1, "catalog", text) for item, text in enumerate(self.catalog_texts, 1) if text]
        kinds = [kind for kind in sources if kind not in ("catalog", "none")]
        for row, (user, item) in enumerate(zip(texts.user, texts.item)):
            sentences += [(user, item, row, kind, getattr(texts, kind)[row]) for kind in kinds]
        return EvidenceTable.build(sentences)
