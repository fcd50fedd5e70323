"""Rows in batches, with a progress bar and without gradients."""

from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm


def batches(rows: Sequence[int], size: int, name: str, progress: bool) -> Iterator[list[int]]:
    """`rows` in lists of at most `size`, under a bar called `name`."""
    starts = range(0, len(rows), size)
    with torch.inference_mode():
        for start in tqdm(starts, desc=name, unit="batch", disable=not progress, mininterval=1.0):
            yield list(rows[start : start + size])
