"""A dataset in which a share of the training rationales belongs to somebody else.

    python -m studies.corrupt --dataset data/sample-planted --share 0.25 --output data/sample-planted-25

The share is drawn at random by seed among the training rows that have a rationale, and the drawn ones hand theirs
round: each gets both halves, and their provenance, of another row. So all rationales stay as fluent and as many as they
were, and only what they are about is wrong. Shares are nested: what is corrupted at 10% is so at 25%, too. Held-out
rows, explanations and purchases stay.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from dataset_builder.tables import Tables, fingerprint, load_tables, write_dataset
from rdrec.errors import DatasetError, exit_code


STREAM = 71
COLUMNS = ("user_preference", "item_attributes", "provenance")


def corrupt(tables: Tables, share: float, seed: int = 0) -> Tables:
    """Hand a share of the training rationales round.

    Parameters
    ----------
    share : float
        Between 0 and 1, of the training rows that have a rationale; rounded to whole rows, never a single one.

    Raises
    ------
    DatasetError
        For another share, or a dataset without two training rationales.
    """
    train = tables.rationales["train"]
    have = np.flatnonzero(train["provenance"].is_valid().to_numpy(zero_copy_only=False))
    if not 0 <= share <= 1:
        raise DatasetError(f"--share {share}: give a share between 0 and 1")
    if len(have) < 2:
        raise DatasetError("the dataset has no training rationales to corrupt: build it with --rationales")
    drawn = np.random.default_rng([seed, STREAM]).permutation(have)[: round(share * len(have))]
    source = np.arange(len(train))
    if len(drawn) > 1:
        source[drawn] = np.roll(drawn, 1)  # a ring: nobody keeps its own
    moved = train.select(COLUMNS).take(pa.array(source))
    for name in COLUMNS:
        train = train.set_column(train.column_names.index(name), train.schema.field(name), moved[name])
    info = tables.info | {"notes": tables.info.get("notes", {}) | {"corrupted": f"{len(drawn)} training rationales"}}
    made = replace(tables, rationales=tables.rationales | {"train": train.combine_chunks()}, info=info)
    made.info["fingerprint"] = fingerprint(made)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="built dataset with rationales")
    parser.add_argument("--share", type=float, required=True, help="of its training rationales, 0 to 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    made = corrupt(load_tables(given.dataset), given.share, given.seed)
    print(f"{write_dataset(made, given.output)}: {made.info['notes']['corrupted']} belong to somebody else")


if __name__ == "__main__":
    sys.exit(exit_code(main))
