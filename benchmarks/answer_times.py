"""How fast a recommender answers: the one way in which ours (`latency.py`) and a peer (`peers.py`) are timed.

    figures = answer_times(answer, sequences)      # answer(histories) gives the ten best items of each history

The two run in virtual environments of their own, so this file needs nothing but NumPy.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np


WARM_UP, USERS, BATCH_SIZE, BATCHES = 20, 200, 256, 16


def answer_times(
    answer: Callable[[list[Sequence]], object], sequences: Sequence[Sequence], batches: int | None = None
) -> dict[str, float]:
    """Time answers to the histories of users spread evenly over a dataset, each but for its last item, the test item.

    Parameters
    ----------
    answer : function of a list of sequences
        The histories of one or more users, oldest item first.
    sequences : sequence of lists or arrays of ids
        All items of every user, in the form that `answer` takes.
    batches : int, optional
        Batches that are timed; default: `BATCHES`.

    Returns
    -------
    dict
        `one_user_ms_p50` and `one_user_ms_p95`: milliseconds for a single user, over `one_user_calls` users;
        `users_per_second` in batches of `batch_size`, over `batch_calls` batches. A small dataset's users are asked for
        again until there are so many.
    """

    def histories(count: int) -> list[Sequence]:
        return [sequences[row][:-1] for row in np.arange(count) * max(1, len(sequences) // count) % len(sequences)]

    for history in histories(WARM_UP):
        answer([history])
    milliseconds = []
    for history in histories(USERS):
        began = time.perf_counter()
        answer([history])
        milliseconds.append(1000 * (time.perf_counter() - began))
    many = histories(BATCH_SIZE * (batches or BATCHES))
    parts = [many[start : start + BATCH_SIZE] for start in range(0, len(many), BATCH_SIZE)]
    answer(parts[0])
    began = time.perf_counter()
    for part in parts:
        answer(part)
    seconds = time.perf_counter() - began
    return {
        "one_user_ms_p50": round(float(np.percentile(milliseconds, 50)), 3),
        "one_user_ms_p95": round(float(np.percentile(milliseconds, 95)), 3),
        "one_user_calls": USERS,
        "users_per_second": round(len(many) / seconds, 1),
        "batch_size": BATCH_SIZE,
        "batch_calls": len(parts),
    }
