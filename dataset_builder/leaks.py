"""What of the held-out interactions a dataset gives away before anything is learned: ids, texts, repeats, equal times.

    audit = leaks(load_tables("data/beauty"))
    audit["id_order"]["hr@5"]          # what "the last id plus one, plus two, …" reaches
    print(format_leaks(audit))         # python -m dataset_builder leaks data/beauty

Ids leak where they were given in the order in which items first appear in users' sequences, test items included: who
buys an item that nobody has bought before gets the next free number. So every figure on ids stands beside what the same
sequences give when ids are drawn at random, and only what lies above that is a leak.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .tables import Tables


CUT = 5
RANDOM_NUMBERINGS = 200
NUMBERING_STREAM = 41
TEXT_COLUMNS = ("explanation", "user_preference", "item_attributes")
HELD_OUT = {"validation": 2, "test": 1}  # places from the end of a user's sequence


def leaks(tables: Tables, seed: int = 0) -> dict[str, Any]:
    """All measures of a built dataset.

    Parameters
    ----------
    tables : Tables
    seed : int
        Of the random numberings that figures on ids are compared with.

    Returns
    -------
    dict
        `id_order`: HR@5 and NDCG@5 on the test items of "the last id plus one, plus two, …", and HR@5 by `chance`;
        `id_correlation`: Pearson's correlation of the test item's id with the last known one and with the mean of the
        history's; `random_ids`: the least and the most of each of these figures in 200 numberings drawn at random, so
        that one in 200 clean datasets lies above; `texts` and `duplicates`, by held-out split, as `text_leaks` and
        `duplicate_texts` give them; `repeats`: share of test items that the user has bought before; `raw_order`;
        `equal_times`, or None where times are not known.
    """
    flat, ends = sequences(tables)
    rng = np.random.default_rng([seed, NUMBERING_STREAM])
    n_items = int(tables.info["counts"]["items"])
    drawn = [_id_figures((rng.permutation(n_items) + 1)[flat - 1], ends) for _ in range(RANDOM_NUMBERINGS)]
    return {
        "id_order": id_order_leak(tables),
        "id_correlation": {name: value for name, value in _id_figures(flat, ends).items() if "@" not in name},
        "random_ids": {name: [min(one[name] for one in drawn), max(one[name] for one in drawn)] for name in drawn[0]},
        "texts": {split: text_leaks(tables, split) for split in HELD_OUT},
        "duplicates": {split: duplicate_texts(tables, split) for split in HELD_OUT},
        "repeats": _repeats(flat, ends),
        "raw_order": raw_order(tables),
        "equal_times": equal_times(tables),
    }


def sequences(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """All tested users' items end to end, and where each one's end (one past): two int64 arrays, [n] and [users]."""
    column = _of_tested(tables, "items")
    return column.flatten().to_numpy(), np.cumsum(pc.list_value_length(column).to_numpy())


def _of_tested(tables: Tables, column: str) -> pa.ListArray:
    """A column of `interactions` of the users of whom something is held out, who come first."""
    return tables.interactions[column].slice(0, tables.candidates["test"].num_rows).combine_chunks()


def id_order_leak(tables: Tables) -> dict[str, float]:
    """How far the order of ids alone leads: ids that follow the last known one, as answers to the test query."""
    figures = _id_figures(*sequences(tables))
    n_items = int(tables.info["counts"]["items"])
    return {name: figures[name] for name in ("hr@5", "ndcg@5")} | {"chance": min(1.0, CUT / n_items)}


def _id_figures(flat: np.ndarray, ends: np.ndarray) -> dict[str, float]:
    """The figures on ids under one numbering: `flat`, int64 [n], holds all users' items end to end."""
    target, last = flat[ends - 1], flat[ends - 2]
    rank = target - last
    hit = (rank >= 1) & (rank <= CUT)
    gain = np.where(hit, 1 / np.log2(1 + np.maximum(rank, 1)), 0.0)
    starts = np.concatenate([[0], ends[:-1]])
    mean = (np.add.reduceat(flat, starts) - target) / (ends - starts - 1)
    return {
        f"hr@{CUT}": float(hit.mean()),
        f"ndcg@{CUT}": float(gain.mean()),
        "last": _correlation(target, last),
        "history": _correlation(target, mean),
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else 0.0


def held_out_texts(tables: Tables) -> int:
    """Training texts whose interaction is the validation or test item of its user."""
    return sum(text_leaks(tables, split)["in_training"] for split in HELD_OUT)


def text_leaks(tables: Tables, split: str) -> dict[str, int]:
    """How many held-out interactions of a split there are, how many have a text in the dataset at all (`with_text`),
    and of how many it stands in the training split (`in_training`)."""
    flat, ends = sequences(tables)
    held_out = set(enumerate(flat[ends - HELD_OUT[split]].tolist(), 1))
    pairs = {
        part: set(zip(table["user"].to_pylist(), table["item"].to_pylist(), strict=True))
        for part, table in tables.rationales.items()
    }
    return {
        "interactions": len(held_out),
        "with_text": len(held_out & set().union(*pairs.values())),
        "in_training": len(held_out & pairs["train"]),
    }


def duplicate_texts(tables: Tables, split: str) -> dict[str, list[int]]:
    """For each column of texts: how many of the split's, and how many of these stand in training word for word.

    Case and blanks do not count. A short sentence may well be written twice; a teacher that says the same of everything
    shows here, and so does a review that was filed under two products.
    """

    def texts(part: str, column: str) -> list[str]:
        return [" ".join(text.lower().split()) for text in tables.rationales[part][column].to_pylist() if text]

    found = {}
    for column in TEXT_COLUMNS:
        trained, held_out = set(texts("train", column)), texts(split, column)
        found[column] = [len(held_out), sum(text in trained for text in held_out)]
    return found


def _repeats(flat: np.ndarray, ends: np.ndarray) -> float:
    """Share of test items that stand in the user's own history, and so need no recommender."""
    starts = np.concatenate([[0], ends[:-1]])
    rows = np.repeat(np.arange(len(ends)), ends - starts)
    again = flat == flat[ends - 1][rows]
    return float((np.bincount(rows[again], minlength=len(ends)) > 1).mean())


def _raw_ids_ascend(tables: Tables) -> np.ndarray:
    """Whether each interaction's raw item id comes after that of the one before it: bool [n], a user's first one's
    value meaning nothing."""
    flat, _ = sequences(tables)
    kinds = tables.catalog["kind"].to_numpy(zero_copy_only=False)
    place = np.argsort(np.argsort(tables.catalog["raw_id"].to_numpy(zero_copy_only=False)[kinds == "item"]))
    return np.concatenate([[False], place[flat[1:] - 1] > place[flat[:-1] - 1]])


def _followers(ends: np.ndarray, n: int) -> np.ndarray:
    """Which interactions follow another of their user: bool [n]."""
    follows = np.ones(n, dtype=bool)
    follows[np.concatenate([[0], ends[:-1]])] = False
    return follows


def raw_order(tables: Tables) -> dict[str, float]:
    """Share of steps from one interaction to the next in which the raw item id ascends, of all and of those to the test
    item.

    About half where raw ids have nothing to do with the order. Above it, newer items have higher ids, or the file was
    sorted by item and its order stands where times are equal; `equal_times` tells the second where times are known.
    """
    _, ends = sequences(tables)
    ascends = _raw_ids_ascend(tables)
    return {
        "interactions": float(ascends[_followers(ends, len(ascends))].mean()),
        "test": float(ascends[ends - 1].mean()),
    }


def equal_times(tables: Tables) -> dict[str, float] | None:
    """How much of the order of interactions is not told by their times; None where these are not known.

    Returns
    -------
    dict or None
        `interactions`: share of those that follow another of their user at the very same time, so that the order of the
        reviews file put them there; `test`: share of users whose test item is one of these; `ascending`: of such pairs
        the share whose raw item ids ascend. In a file without any order it is about half. Where it is far from that the
        file was sorted by item, and the order of equal times gives away which of two items comes later.
    """
    column = _of_tested(tables, "timestamps")
    if column.null_count:
        return None
    times, (_, ends) = column.flatten().to_numpy(), sequences(tables)
    equal = _followers(ends, len(times))
    equal[1:] &= times[1:] == times[:-1]
    return {
        "interactions": float(equal.mean()),
        "test": float(equal[ends - 1].mean()),
        "ascending": float(_raw_ids_ascend(tables)[equal].mean()) if equal.any() else 0.5,
    }


def format_leaks(audit: dict[str, Any]) -> str:
    """The lines that `python -m dataset_builder leaks` prints."""
    order, correlation = audit["id_order"], audit["id_correlation"]
    figures = {
        '"last id plus one … 5", HR@5': ("hr@5", order["hr@5"]),
        '"last id plus one … 5", NDCG@5': ("ndcg@5", order["ndcg@5"]),
        "correlation of target and last id": ("last", correlation["last"]),
        "correlation of target and mean history id": ("history", correlation["history"]),
    }
    lines = []
    for label, (name, value) in figures.items():
        low, high = audit["random_ids"][name]
        verdict = "as ids drawn at random" if low <= value <= high else "LEAK" if value > high else "below random"
        lines.append(f"{label:44} {value:8.4f}  random ids {low:.4f} to {high:.4f}: {verdict}")
    for split, found in audit["texts"].items():
        label = f"{split} interactions with a text in training"
        lines.append(f"{label:44} {found['in_training']:8,}  of {found['with_text']:,} that have a text")
    for split, columns in audit["duplicates"].items():
        for column, (held_out, same) in columns.items():
            if held_out:
                lines.append(f"{f'{split} {column} also in training':44} {same:8,}  of {held_out:,}, word for word")
    lines.append(f"{'test items that the user bought before':44} {audit['repeats']:8.1%}")
    for part, label in (
        ("interactions", "steps to a higher raw item id"),
        ("test", "the same of steps to the test item"),
    ):
        lines.append(f"{label:44} {audit['raw_order'][part]:8.1%}  half where raw ids tell nothing of the order")
    if (times := audit["equal_times"]) is None:
        lines.append("times are not known: whether equal ones hide the order of the file cannot be told")
    else:
        lines.append(f"{'interactions at the time of the one before':44} {times['interactions']:8.1%}")
        lines.append(f"{'test items at the time of the one before':44} {times['test']:8.1%}")
        lines.append(
            f"{'such pairs whose raw item ids ascend':44} {times['ascending']:8.1%}  half where no order leaks"
        )
    return "\n".join(lines)
