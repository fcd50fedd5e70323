"""Which rows an optimizer step sees.

    mixture = TaskMixture(data, batch_size=64, ratio=(1, 1, 1, 1), seed=0)
    rows = mixture.rows(step)                          # the rows of one optimizer step

A step's rows depend on the seed and the step's number alone: not on the number of processes, of workers, or on where a
run was interrupted. The draws follow the paper's code (its section 4.1).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dataset_builder.rationales import RATIONALE_TASKS
from modeling_rdrec.evidence import Known, prompt, retrieve
from modeling_rdrec.prompts import BARE, fill
from rdrec.errors import DatasetError

from .data import TaskData
from .wordings import WORDINGS


# The families of the mixing ratio, in its order; a rationale draw gives one row for each half of the rationale.
FAMILIES = ("explanation", "sequential", "rationale", "topn")

# Streams of random numbers; the builder's own are below 100, evaluation's from 200.
ORDER_STREAM, DRAW_STREAM, VALIDATION_STREAM, NEGATIVE_STREAM = 101, 102, 103, 104
# With evidence the share of prompts for texts that do not name the user, so that visitors are understood too.
UNNAMED = 0.5
# Users of similar length are found among those of so many steps.
SORTED_STEPS = 20


class Row(NamedTuple):
    """One training row: task name (of `TASKS`), prompt and target, both as text."""

    task: str
    prompt: str
    target: str

    @property
    def family(self) -> str:
        return "rationale" if self.task in RATIONALE_TASKS else self.task


class HistoryRow(NamedTuple):
    """One user as a training row of a decoder that reads histories: every item is a target, given those before it."""

    prompt: str
    items: np.ndarray  # int64 [length], oldest first
    task: str = "sequential"

    @property
    def family(self) -> str:
        return self.task


class TaskMixture:
    """Draws the rows of each optimizer step.

    Parameters
    ----------
    data : TaskData
    batch_size : int
        Draws a step over all processes; a rationale draw gives up to two rows, so 64 draws give up to 80 rows.
    ratio : sequence of 4 numbers
        Shares of explanation, sequential, rationale and top-N. A family without data gives its share to the others.
    seed : int
    max_history : int
        Most items before the target in a sequential row (paper: 20).
    history : str
        "encoder": a sequential row is a segment of a user's items in the prompt, a top-N row a list of candidates
        (paper). "decoder": a sequential row is a whole user, whose every item is a target; users of similar length
        stand in one step; top-N is answered from the same state and has no rows.
    user_dropout : float
        With "decoder": the share of rows whose prompt does not name the user.
    fit_on : str
        "train", "train+validation" or "all": what the rows are drawn from.
    softmax_negatives : int, optional
        With "decoder": items that a step's targets are told from; None: all.
    tokenizer : RDRecTokenizer, optional
        Whose table of evidence the prompts for texts hold, without the review that they ask for.
    """

    def __init__(
        self,
        data: TaskData,
        batch_size: int = 64,
        ratio: Sequence[float] = (1, 1, 1, 1),
        seed: int = 0,
        max_history: int = 20,
        history: str = "encoder",
        user_dropout: float = 1.0,
        fit_on: str = "train",
        softmax_negatives: int | None = None,
        tokenizer=None,
    ):
        self.tokenizer = tokenizer
        self._known: dict[tuple[str, int], Known] = {}
        self.data, self.seed, self.max_history, self.history = data, seed, max_history, history
        self.user_dropout, self.softmax_negatives = user_dropout, softmax_negatives
        self.texts, self.histories = data.texts_for(fit_on), data.histories(fit_on)
        texts, lengths = self.texts, np.array([len(items) for items in self.histories])
        # What one pass of each family goes through: rows of texts, or users.
        self.pools = {
            "explanation": np.arange(len(texts)),
            "sequential": np.flatnonzero(lengths >= 2),
            "rationale": texts.rationale_rows,
            "topn": np.flatnonzero(lengths >= (1 if history == "encoder" else np.inf)),
        }
        self.draws = share_out(batch_size, ratio, [len(self.pools[family]) for family in FAMILIES])
        # An epoch is one pass over the explanation rows (paper); over the users without texts, or with the history in
        # the decoder.
        leaders = ("explanation", "sequential", "topn", "rationale")
        leader = next(f for f in (leaders if history == "encoder" else ("sequential", *leaders)) if self.draws[f])
        self.steps_per_epoch = -(-self._turn_length(leader) // self.draws[leader])
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        # `published` keeps the paper's negatives, which avoid the user's test item too and so give it away a little;
        # `clean` knows the training part only.
        self._seen = [
            np.unique(sequence if data.protocol == "published" else seen)
            for sequence, seen in zip(data.everyone, self.histories, strict=True)
        ]

    def _turn_length(self, family: str) -> int:
        """Draws of one pass: the pool, or as many whole steps of users as it holds (others are left out each pass)."""
        pool, draws = len(self.pools[family]), self.draws[family]
        if family == "sequential" and self.history == "decoder" and pool > draws:
            return pool // draws * draws
        return pool

    def negatives(self, step: int) -> np.ndarray | None:
        """Items that the targets of step `step` are told from, the same for all rows; None: all items.

        int64 `[softmax_negatives]`
        """
        if self.softmax_negatives is None or self.softmax_negatives >= self.data.num_items:
            return None
        rng = np.random.default_rng([self.seed, NEGATIVE_STREAM, step])
        return rng.integers(1, self.data.num_items + 1, self.softmax_negatives)

    def _pool_entry(self, family: str, count: int) -> int:
        """Entry of the family's pool at its `count`-th draw: pass after pass, each in an order of its own."""
        pool = self.pools[family]
        turn, place = divmod(count, self._turn_length(family))
        key = (family, turn)
        if key not in self._orders:
            # Draws of a step lie side by side, so the order before this one is the oldest that can still be asked for.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != family or k[1] == turn - 1}
            rng = np.random.default_rng([self.seed, ORDER_STREAM, FAMILIES.index(family), turn])
            self._orders[key] = rng.permutation(pool)
            if family == "sequential" and self.history == "decoder":
                self._orders[key] = self._by_length(self._orders[key], rng)
        return int(self._orders[key][place])

    def _by_length(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The same users with those of similar length side by side, step by step, the steps shuffled."""
        size, steps = self.draws["sequential"], []
        # Those who do not fill a step are left out before they are sorted, or it would always be the longest.
        order = order[: self._turn_length("sequential")]
        for start in range(0, len(order), size * SORTED_STEPS):
            part = order[start : start + size * SORTED_STEPS]
            part = part[np.argsort([len(self.histories[user]) for user in part], kind="stable")]
            steps += [part[first : first + size] for first in range(0, len(part), size)]
        return np.concatenate([steps[place] for place in rng.permutation(len(steps))])

    def rows(self, step: int) -> list[Row | HistoryRow]:
        """Rows of optimizer step `step` (from 0), grouped by family in the order of `FAMILIES`."""
        rng = np.random.default_rng([self.seed, DRAW_STREAM, step])
        rows: list[Row | HistoryRow] = []
        for family in FAMILIES:
            make = getattr(self, f"_{family}")
            for count in range(step * self.draws[family], (step + 1) * self.draws[family]):
                rows += make(self._pool_entry(family, count), rng)
        return rows

    def _worded(self, task: str, rng: np.random.Generator, target: object, **fields) -> Row:
        return Row(task, fill(self._wording(task, rng), **fields), str(target))

    def _wording(self, task: str, rng: np.random.Generator) -> str:
        return WORDINGS[task][rng.integers(len(WORDINGS[task]))]

    def _text_row(self, task: str, rng: np.random.Generator, target: str, index: int) -> Row:
        """A row that asks for a sentence of a review."""
        user, item = self.texts.user[index], self.texts.item[index]
        if self.tokenizer is None:
            return self._worded(task, rng, target, user=user, items=[item])
        wording, table = self._wording(task, rng), self.tokenizer.evidence
        if (task, index) not in self._known:
            self._known[task, index] = retrieve(table, self.tokenizer, task, user, item, without=index)
        named = user if rng.random() >= UNNAMED else None
        return Row(task, prompt(table, wording, self._known[task, index], named, item), target)

    def _explanation(self, index: int, rng: np.random.Generator) -> list[Row]:
        return [self._text_row("explanation", rng, self.texts.explanation[index], index)]

    def _rationale(self, index: int, rng: np.random.Generator) -> list[Row]:
        halves = [(task, getattr(self.texts, task)[index]) for task in RATIONALE_TASKS]
        return [self._text_row(task, rng, sentence, index) for task, sentence in halves if sentence]

    def _sequential(self, index: int, rng: np.random.Generator) -> list[Row | HistoryRow]:
        """The user's last items; or a random contiguous segment of them, its last item the target (paper)."""
        train = self.histories[index]
        if self.history == "decoder":
            named = index + 1 if rng.random() >= self.user_dropout else None
            return [HistoryRow(fill(BARE["sequential"], named), train[-self.max_history - 1 :])]
        start, end = np.sort(rng.choice(len(train), size=2, replace=False))
        history = train[max(start, end - self.max_history) : end]
        return [self._worded("sequential", rng, train[end], user=index + 1, items=history)]

    def _topn(self, index: int, rng: np.random.Generator) -> list[Row]:
        """One item of the training part among fresh negatives, shuffled."""
        train = self.histories[index]
        positive = train[rng.integers(len(train))]
        negatives = sample_negatives(rng, self.data.num_items, self._seen[index], self.data.num_negatives)
        candidates = rng.permutation(np.append(negatives, positive))
        return [self._worded("topn", rng, positive, user=index + 1, items=candidates)]


def share_out(batch_size: int, ratio: Sequence[float], sizes: Sequence[int]) -> dict[str, int]:
    """Draws of each family in one step: `batch_size` in proportion to `ratio` among the families that have data.

    Raises
    ------
    DatasetError
        For a ratio that is not four numbers of which one is positive, no data for any family with a share, or a batch
        too small to give each of them a draw.
    """
    if len(ratio) != len(FAMILIES) or min(ratio) < 0:
        raise DatasetError(f"task_ratio {ratio}: give four numbers, the shares of {', '.join(FAMILIES)}")
    weights = np.array([share if size else 0.0 for share, size in zip(ratio, sizes)])
    if weights.sum() == 0:
        raise DatasetError(f"task_ratio {ratio}: none of its tasks has data in this dataset; give another ratio")
    exact = batch_size * weights / weights.sum()
    counts = np.floor(exact).astype(int)
    # Largest remainders first, so that the counts add up to the batch.
    for place in np.argsort(counts - exact, kind="stable")[: batch_size - counts.sum()]:
        counts[place] += 1
    if (counts[weights > 0] == 0).any():
        raise DatasetError(
            f"train_batch_size {batch_size}: too small for task_ratio {ratio}; give at least one draw each"
        )
    return dict(zip(FAMILIES, counts.tolist()))


def sample_negatives(rng: np.random.Generator, num_items: int, seen: np.ndarray, size: int) -> np.ndarray:
    """`size` different items, uniform over `1..num_items` without the sorted ids `seen`; int64 `[size]`."""
    free = num_items - len(seen)
    if free < size:
        raise DatasetError(
            f"a user has only {free} items left to draw {size} negatives from: build with less negatives"
        )
    # Draw ranks among the unseen items; each seen item below a rank moves it up by one.
    ranks = rng.choice(free, size=size, replace=False, shuffle=False) + 1
    return ranks + np.searchsorted(seen - np.arange(len(seen)), ranks, side="right")


def validation_rows(
    data: TaskData,
    seed: int,
    max_history: int = 20,
    max_samples: int | None = None,
    history: str = "encoder",
    tokenizer=None,
) -> list[Row]:
    """Rows of the validation loss: bare prompts, each family's held-out part, at most `max_samples` draws a family.

    With the history in the decoder the recommendation tasks are validated by ranking, and have no rows here. With a
    `tokenizer` the prompts for texts hold its evidence.
    """
    rng = np.random.default_rng([seed, VALIDATION_STREAM])
    texts = data.texts["validation"]
    positives, negatives = data.candidates["validation"]
    users = np.arange(len(data.sequences) if history == "encoder" else 0)

    def some(pool: np.ndarray) -> np.ndarray:
        if max_samples is None or len(pool) <= max_samples:
            return pool
        return np.sort(rng.choice(pool, size=max_samples, replace=False))

    def text_row(task: str, index: int, target: str) -> Row:
        user, item = texts.user[index], texts.item[index]
        if tokenizer is None:
            return Row(task, fill(BARE[task], user, [item]), target)
        known = retrieve(tokenizer.evidence, tokenizer, task, user, item)
        return Row(task, prompt(tokenizer.evidence, BARE[task], known, user, item), target)

    rows = [text_row("explanation", i, texts.explanation[i]) for i in some(np.arange(len(texts)))]
    for u in some(users):
        *before, target = data.sequences[u][:-1]
        asked = fill(BARE["sequential"], u + 1, before[-max_history:])
        rows.append(Row("sequential", asked, str(target)))
    for i in some(texts.rationale_rows):
        halves = [(task, getattr(texts, task)[i]) for task in RATIONALE_TASKS]
        rows += [text_row(task, i, sentence) for task, sentence in halves if sentence]
    for u in some(users):
        candidates = rng.permutation(np.append(negatives[u], positives[u]))
        rows.append(Row("topn", fill(BARE["topn"], u + 1, candidates), str(positives[u])))
    return rows
