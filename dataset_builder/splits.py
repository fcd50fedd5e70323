"""Who is held out: leave-one-out for interactions, 8:1:1 for texts, and the sampled candidates of the top-N task."""

import numpy as np

from rdrec.errors import DatasetError


TEXT_SPLIT_STREAM = 21
CANDIDATE_STREAMS = {"validation": 31, "test": 32}

TRAIN, VALIDATION, TEST = 0, 1, 2

_BLOCK = 10_000  # users whose candidates are looked at together, so that few numbers are in memory beside the result


def leave_one_out(lengths: np.ndarray, tested: int | None = None) -> np.ndarray:
    """Part of each interaction when users' sequences lie end to end: the last is TEST, the one before VALIDATION.

    Parameters
    ----------
    lengths : int64 array of shape [n_users]
        Interactions of each user, 3 or more where something is held out.
    tested : int, optional
        Only of so many users, the first ones, something is held out; default: of all.

    Returns
    -------
    int8 array of shape [lengths.sum()]
    """
    parts = np.full(int(lengths.sum()), TRAIN, dtype=np.int8)
    ends = np.cumsum(lengths)[:tested]
    parts[ends - 1] = TEST
    parts[ends - 2] = VALIDATION
    return parts


def split_texts(parts: np.ndarray, protocol: str, seed: int, trained: np.ndarray | None = None) -> np.ndarray:
    """Split of each review text.

    `published`: 8:1:1 at random over all reviews, whatever they belong to, as the paper does. `clean`: the text of a
    held-out interaction is held out in the same split, so none reaches training; where that makes less than a tenth of
    all reviews, training reviews drawn at random fill the split up to a tenth.

    Parameters
    ----------
    parts : int8 array of shape [n]
        TRAIN, VALIDATION or TEST of the interaction that each text belongs to.
    trained : bool array of shape [n], optional
        Texts that stood in the training split of the dataset that is extended: none of them is drawn to be held out,
        since a model that is trained on has read them.

    Returns
    -------
    int8 array of shape [n]
    """
    rng = np.random.default_rng([seed, TEXT_SPLIT_STREAM])
    tenth = len(parts) // 10
    splits = np.full(len(parts), TRAIN, dtype=np.int8) if protocol == "published" else parts.astype(np.int8)
    drawable = rng.permutation(np.flatnonzero((splits == TRAIN) if trained is None else (splits == TRAIN) & ~trained))
    for split in (TEST, VALIDATION):
        missing = max(0, tenth - int((splits == split).sum()))
        splits[drawable[:missing]] = split
        drawable = drawable[missing:]
    return splits


def draw_candidates(
    items: np.ndarray, lengths: np.ndarray, n_items: int, num_negatives: int, seed: int, split: str
) -> np.ndarray:
    """Draw for each user items that the user never interacted with, uniformly and without repeats.

    Every draw that hits the user's own items or an earlier draw of the same user is drawn again until none is left. No
    item is treated unlike another by this, so each set of eligible items is equally likely.

    Parameters
    ----------
    items : int64 array of shape [n]
        Item ids from 1, users' sequences end to end.
    lengths : int64 array of shape [n_users]
    n_items, num_negatives, seed : int
    split : str
        "validation" or "test": the two lists of a user are drawn independently.

    Returns
    -------
    int64 array of shape [n_users, num_negatives]

    Raises
    ------
    DatasetError
        A user has fewer eligible items than asked for.
    """
    fewest = n_items - int(lengths.max())  # a sequence has no repeats, so its length is what the user excludes
    if fewest < num_negatives:
        raise DatasetError(
            f"a user has only {max(fewest, 0)} of {n_items} items left to draw {num_negatives} negatives from; "
            f"give --num_negatives {fewest} or a larger catalog"
            if fewest > 0
            else f"a user has interacted with all {n_items} items, so no negatives can be drawn; give a larger catalog"
        )
    rng = np.random.default_rng([seed, CANDIDATE_STREAMS[split]])
    n_users = len(lengths)
    base = n_items + 1
    own = np.sort(np.repeat(np.arange(n_users), lengths) * base + items)  # one number per user-item pair
    drawn = rng.integers(1, n_items + 1, size=(n_users, num_negatives))
    rows = np.arange(n_users)
    while len(rows):
        again = []
        for start in range(0, len(rows), _BLOCK):  # in their order, so that the draws are the same for any size
            of_block = rows[start : start + _BLOCK]
            block = drawn[of_block]
            pairs = of_block[:, None] * base + block
            found = np.minimum(np.searchsorted(own, pairs), len(own) - 1)
            bad = own[found] == pairs
            order = np.argsort(block, axis=1, kind="stable")
            in_order = np.take_along_axis(block, order, axis=1)
            repeat = np.zeros_like(bad)
            repeat[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
            np.put_along_axis(bad, order, np.take_along_axis(bad, order, axis=1) | repeat, axis=1)
            block[bad] = rng.integers(1, n_items + 1, size=int(bad.sum()))
            drawn[of_block] = block
            again.append(of_block[bad.any(axis=1)])
        rows = np.concatenate(again)
    return drawn
