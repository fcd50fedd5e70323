"""How training and recommending go with the size of the catalog and the number of users.

    python -m benchmarks.size --items 10000 100000 1000000 --work_dir runs/size
    python -m benchmarks.size --items 10000 --users 1000000 --steps 10 --work_dir runs/size     # many users

For each size a dataset is made up (users with about nine purchases, items by Zipf's law, a few words on each item). A
model as wide as the recipes' (64) is trained on it for --steps steps of 128 histories, once against all items (up to
--most_for_all of them) and once against 512 random ones, and `recommend.py` answers all users with the last one.
Nothing is learned that is worth anything: what counts is time and memory.

Each command runs in a process of its own. Printed are, of training, the tokens/s of its steps and the most memory held;
of `recommend.py`, users/s of its whole run, loading included, and the memory held in each tenth of its time.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from dataset_builder.assemble import Interactions, Names, Settings, Texts, assemble
from dataset_builder.tables import Tables, write_dataset
from rdrec.arguments import write_yaml
from rdrec.checkpoints.files import RECORD_FILE
from rdrec.checkpoints.records import TrainingRecord
from rdrec.durable import write_json
from rdrec.errors import exit_code

from .build import FILLER, OPINIONS, SUBJECTS, zipf
from .watching import watched


ROWS_A_STEP, NEGATIVES, PURCHASES = 128, 512, 9
RECIPE = {
    "model_config": {"d_model": 64, "d_kv": 64, "d_ff": 256, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 1},
    "ids_as_tokens": True,
    "history": "decoder",
    "train_batch_size": ROWS_A_STEP,
    "learning_rate": 2.0e-3,
    "max_eval_samples": 256,
    "mixed_precision": "no",
    "report_to": "none",
}


def made_up(users: int, items: int, seed: int) -> Tables:
    """A dataset of so many users and items. Nobody buys an item twice."""
    rng = np.random.default_rng([seed, users, items])
    popular = rng.permutation(items) + 1
    wanted = popular[zipf(rng, items, 0.7, 2 * PURCHASES * users)].reshape(users, -1)
    lengths = np.clip(rng.poisson(PURCHASES, size=users), 3, PURCHASES * 2)
    bought, counts = [], []
    for row, length in zip(wanted, lengths):
        once = row[np.sort(np.unique(row, return_index=True)[1])][:length]
        bought.append(once)
        counts.append(len(once))
    words = [rng.choice(some, size=items) for some in (OPINIONS, FILLER, SUBJECTS)]
    names = Names(
        [f"A{user:012X}" for user in range(users)],
        [f"B{item:09X}" for item in range(items)],
        [" ".join(text) for text in zip(*words)],
    )
    return assemble(
        Interactions(np.concatenate(bought), np.array(counts)),
        names,
        Texts(),
        Settings("made_up", "clean", seed, num_negatives=9),
        source={"kind": "made up", "users": users, "items": items},
        skipped=Counter(),
    )


def trained(dataset: Path, run: Path, items: int, negatives: int | None, steps: int) -> dict:
    """Train for a few steps."""
    # Room for the items and for the pieces of their texts.
    recipe = {**RECIPE, "vocab_size": items + 2000, "max_train_steps": steps, "eval_steps": steps}
    run.parent.mkdir(parents=True, exist_ok=True)
    config = run.with_suffix(".yaml")
    write_yaml(recipe | {"dataset": str(dataset), "output_dir": str(run), "softmax_negatives": negatives}, config)
    found = watched([sys.executable, "train.py", "--config", str(config), "--overwrite_output_dir"])
    rate = TrainingRecord.read(run / RECORD_FILE).tokens_per_second
    return {"tokens_per_s": round(rate), "wall_s": found.wall_s, "peak_mb": found.peak_mb}


def answered(model: Path, dataset: Path, users: int) -> dict:
    """Recommend to all users."""
    output = model.with_suffix(".parquet")
    command = ["recommend.py", "--model", str(model), "--dataset", str(dataset), "--output", str(output), "--overwrite"]
    found = watched([sys.executable, *command])
    return {"users_per_s": round(users / found.wall_s), "wall_s": found.wall_s, "memory_mb": found.memory_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--most_for_all", type=int, default=100_000, help="largest catalog to train against as a whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    given = parser.parse_args()
    measured = []
    for items in given.items:
        work = given.work_dir / f"{items}-{given.users}"
        write_dataset(made_up(given.users, items, given.seed), work / "dataset", overwrite=True)
        found = {"items": items, "users": given.users}
        if items <= given.most_for_all:
            found["against all"] = trained(work / "dataset", work / "all", items, None, given.steps)
        found[f"against {NEGATIVES}"] = trained(work / "dataset", work / "some", items, NEGATIVES, given.steps)
        found["recommend"] = answered(work / "some", work / "dataset", given.users)
        print(json.dumps(found), flush=True)
        measured.append(found)
    if given.output:
        write_json(given.output, measured)


if __name__ == "__main__":
    sys.exit(exit_code(main))
