"""New items: a twentieth of the items is held out of training altogether, then added by text alone and ranked.

    python -m benchmarks.cold_start --dataset data/beauty --config recipes/beauty.yaml --seed 0
    python -m benchmarks.cold_start --dataset data/beauty --config recipes/beauty.yaml --seed 0 --own_dropout 0.2
    python -m benchmarks.cold_start … --split validation      # to choose settings by

Training gets the dataset without these items: each user's last item that is left is the test item and the one before
validates, so nothing is trained on that would not be otherwise. Evaluated are the users whose test item is a new one,
after all their earlier items but the new ones: HR@10 among all items (without the history) and among the new ones,
beside random and beside the texts' similarity to the last items. With `--split validation` the validation item takes
the place of the test item: settings are chosen there. Reviews are left out: a new item has none.

Flags that are not listed here are those of `train.py` and win over the recipe. The dataset, the run and the results are
left in --work_dir. A run that is there already with the same settings is read, not made again.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dataset_builder.assemble import Interactions, Names, Settings, Texts, assemble
from dataset_builder.tables import Tables, load_tables, write_dataset
from rdrec.arguments import parse_arguments, run
from rdrec.checkpoints.files import RECORD_FILE
from rdrec.checkpoints.loading import load_pretrained
from rdrec.checkpoints.records import TrainingRecord
from rdrec.durable import write_json
from rdrec.errors import UserError
from rdrec.evaluation.baselines import HELD_OUT
from rdrec.tasks.data import TaskData
from rdrec.training.loop import train
from rdrec.training.recipe import Recipe


SHARE = 0.05
NEW_STREAM, TIE_STREAM = 71, 72
K = 10
LAST_ITEMS = 5
FEWEST_ITEMS = 3
RESULTS_FILES = {"test": "cold_start.json", "validation": "cold_start_validation.json"}
USERS_A_BATCH = 256


@dataclass(frozen=True)
class ColdStart:
    """Who is asked for which new item. Item ids are the whole dataset's.

    Attributes
    ----------
    new : int64 array of shape [new items]
        In the order drawn: items of equal text tie, and by their place such ties are broken.
    histories : list of int64 arrays
        A user's items before the target, oldest first, without new ones; at least one each.
    targets : int64 array of shape [users]
        The held-out item of each, a new one.
    """

    new: np.ndarray
    histories: list[np.ndarray]
    targets: np.ndarray


def draw(data: TaskData, seed: int, split: str) -> ColdStart:
    """Draw the new items, among those that have a text, and find the users to evaluate."""
    if data.untested:
        raise UserError("the dataset is a split by time: give the one that it was made of")
    with_text = np.flatnonzero([bool(text) for text in data.catalog_texts]) + 1
    count = round(SHARE * data.num_items)
    if not 0 < count <= len(with_text):
        raise UserError(f"{len(with_text)} of {data.num_items} items have a text in the catalog: none to hold out")
    new = np.random.default_rng([seed, NEW_STREAM]).permutation(with_text)[:count]
    back = HELD_OUT[split]
    asked = [items[: len(items) - back + 1] for items in data.sequences if np.isin(items[-back], new)]
    earlier = [items[:-1][~np.isin(items[:-1], new)] for items in asked]
    rows = [row for row, items in enumerate(earlier) if len(items)]
    if not rows:
        raise UserError(f"seed {seed}: no user's {split} item is among the new items: give another --seed")
    return ColdStart(new, [earlier[row] for row in rows], np.array([asked[row][-1] for row in rows]))


def without_items(tables: Tables, data: TaskData, new: np.ndarray) -> Tables:
    """The dataset as if `new` had never been: ids dense again, users with fewer than `FEWEST_ITEMS` left out."""
    known = np.setdiff1d(np.arange(1, data.num_items + 1), new)
    number = np.zeros(data.num_items + 1, dtype=np.int64)
    number[known] = np.arange(1, len(known) + 1)
    left = [number[items][number[items] > 0] for items in data.sequences]
    users = [user for user, items in enumerate(left) if len(items) >= FEWEST_ITEMS]
    interactions = Interactions(
        np.concatenate([left[user] for user in users]), np.array([len(left[user]) for user in users])
    )
    names = Names(
        [data.raw_ids["user"][user] for user in users],
        [data.raw_ids["item"][item - 1] for item in known],
        [data.catalog_texts[item - 1] for item in known],
    )
    info = tables.info
    return assemble(
        interactions,
        names,
        Texts(),
        Settings(f"{info['domain']}-cold-start", info["protocol"], info["seed"], info["num_negatives"]),
        source={"kind": "cold start", "of": info["fingerprint"], "new_items": len(new)},
        skipped=Counter(users=len(left) - len(users), items=len(new)),
    )


def trained(recipe: Recipe, fingerprint: str) -> TrainingRecord | None:
    """The record of the run, trained unless it is there already; None where it was stopped."""
    record = TrainingRecord.find(Path(recipe.output_dir) / RECORD_FILE)
    if record and record.recipe == recipe.reproducing() and record.dataset["fingerprint"] == fingerprint:
        return record
    return train(recipe)


def model_hits(checkpoint: str, data: TaskData, cold: ColdStart) -> tuple[dict[str, dict[str, float]], int]:
    """HR@10 of the checkpoint after the new items were added to it, and how many of them have no piece it knows.

    Those cannot be added, so whom they are the right answer for counts as missed.
    """
    model, tokenizer = load_pretrained(checkpoint)
    raw_ids = data.raw_ids["item"]
    texts = {raw_ids[item - 1]: data.catalog_texts[item - 1] for item in cold.new}
    pieces = tokenizer.text_pieces(list(texts.values()))
    added = {raw_id: text for (raw_id, text), row in zip(texts.items(), pieces) if row}
    model, tokenizer = model.add_items(tokenizer, added)
    histories = [[raw_ids[item - 1] for item in history] for history in cold.histories]
    targets = [raw_ids[item - 1] for item in cold.targets]

    def share(answers) -> float:
        return float(np.mean([target in answer.items for target, answer in zip(targets, answers)]))

    def hits(prior: bool) -> dict[str, float]:
        among_all = model.recommend(tokenizer, histories, k=K, prior=prior)
        among_new = model.rank(tokenizer, [list(added)] * len(histories), history=histories, k=K, prior=prior)
        return {"all": share(among_all), "new": share(among_new)}

    rows = {"model": hits(prior=True)}
    if model.config.prior_weight:
        rows["model without prior"] = hits(prior=False)
    return rows, len(texts) - len(added)


def similarity_hits(data: TaskData, cold: ColdStart, seed: int, idf: bool) -> dict[str, float]:
    """HR@10 by the cosine between an item's words and those of the user's last five items.

    An item is the set of its words, each weighing 1 or, with `idf`, the logarithm of how rare it is, at unit length.
    Ties are broken at random by `seed`.
    """
    words = [sorted(set((text or "").lower().split())) for text in data.catalog_texts]
    column = {word: place for place, word in enumerate(sorted({word for row in words for word in row}))}
    rows = np.repeat(np.arange(len(words)), [len(row) for row in words])
    columns = np.array([column[word] for row in words for word in row])
    weights = np.ones(len(rows))
    if idf:
        weights = np.log(len(words) / np.bincount(columns))[columns]
    lengths = np.sqrt(np.bincount(rows, weights**2, minlength=len(words)))
    weights = weights / np.maximum(lengths[rows], 1e-12)
    shape = (len(words), len(column))
    items = torch.sparse_coo_tensor(np.stack([rows, columns]), weights, shape, check_invariants=True).coalesce()

    last = [history[-LAST_ITEMS:] - 1 for history in cold.histories]
    place = np.random.default_rng([seed, TIE_STREAM]).permutation(len(words))
    new, found = cold.new - 1, {"all": 0, "new": 0}
    for start in range(0, len(last), USERS_A_BATCH):
        some = last[start : start + USERS_A_BATCH]
        chosen = np.zeros((len(words), len(some)))
        for user, history in enumerate(some):
            chosen[history, user] = 1.0
        profiles = torch.sparse.mm(items.t(), torch.from_numpy(chosen))
        # A user's own length divides all scores alike. Rounded, so that equal texts tie whatever the order of sums.
        scores = torch.sparse.mm(items, profiles).numpy().T.round(9)
        for user, row in enumerate(scores):
            target = cold.targets[start + user] - 1
            ahead = (row > row[target]) | ((row == row[target]) & (place < place[target]))
            found["new"] += ahead[new].sum() < K
            ahead[cold.histories[start + user] - 1] = False
            found["all"] += ahead.sum() < K
    return {among: float(count / len(last)) for among, count in found.items()}


def random_hits(data: TaskData, cold: ColdStart) -> dict[str, float]:
    """What guessing reaches on average."""
    left = data.num_items - np.array([len(history) for history in cold.histories])
    return {"all": float(np.minimum(1, K / left).mean()), "new": min(1.0, K / len(cold.new))}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", default="data/beauty", help="built dataset whose catalog has texts")
    parser.add_argument("--config", default="recipes/beauty.yaml", help="recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the items held out and of the run")
    parser.add_argument("--own_dropout", type=float, help="see train.py --help; default: the recipe's")
    parser.add_argument("--split", default="test", choices=HELD_OUT, help="whose held-out item is to be a new one")
    parser.add_argument("--work_dir", help="default: runs/cold_start/DATASET-SEED, and the own_dropout if it is given")
    parser.add_argument("--output", help="default: cold_start.json, or cold_start_validation.json, in --work_dir")
    given, more = parser.parse_known_args()
    name = f"{Path(given.dataset).name}-{given.seed}"
    if given.own_dropout is not None:
        name += f"-own_dropout-{given.own_dropout:g}"
        more = ["--own_dropout", str(given.own_dropout), *more]
    work = Path(given.work_dir or Path("runs/cold_start") / name)
    output = Path(given.output or work / RESULTS_FILES[given.split])
    flags = ["--config", given.config, "--seed", str(given.seed), *more]
    flags += ["--dataset", str(work / "dataset"), "--output_dir", str(work / "run"), "--overwrite_output_dir"]
    recipe = parse_arguments(Recipe, __doc__, flags)

    tables = load_tables(given.dataset)
    data = TaskData(tables)
    cold = draw(data, given.seed, given.split)
    reduced = without_items(tables, data, cold.new)
    write_dataset(reduced, work / "dataset", overwrite=True)
    record = trained(recipe, reduced.info["fingerprint"])
    if record is None:
        return 130

    rows, unknown = model_hits(recipe.output_dir, data, cold)
    rows["text similarity, tf-idf"] = similarity_hits(data, cold, given.seed, idf=True)
    rows["text similarity, bag of words"] = similarity_hits(data, cold, given.seed, idf=False)
    rows["random"] = random_hits(data, cold)
    counts = {
        "items": data.num_items,
        "new_items": len(cold.new),
        "new_items_without_a_known_piece": unknown,
        "training_users": reduced.info["counts"]["users"],
        "evaluated_users": len(cold.targets),
    }
    result = {
        "dataset": tables.info["domain"],
        "fingerprint": tables.info["fingerprint"],
        "split": given.split,
        "seed": given.seed,
        "counts": counts,
        "hr@10": rows,
        "minutes": record.minutes,
        "recipe": recipe.reproducing(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, result)
    print(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))
    width = max(map(len, rows))
    print(f"{'HR@10':<{width}}  {'all items':>9}  {'new items':>9}")
    for name, row in rows.items():
        print(f"{name:<{width}}  {row['all']:>9.4f}  {row['new']:>9.4f}")
    print(f"{record.minutes:.1f} minutes of training: {output}")
    return 0


if __name__ == "__main__":
    run(main)
