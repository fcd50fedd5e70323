"""The four training tasks: which rows an optimizer step sees, and how rows become tensors.

    data = TaskData(load_tables("data/beauty"))
    mixture = TaskMixture(data, batch_size=64, ratio=(1, 1, 1, 1), seed=0)
    rows = mixture.rows(step)                          # the rows of one optimizer step
    groups = Collator(tokenizer)(rows)["groups"]       # padded batches, each of one task, whose losses add up to the
                                                       # step's

A step's rows depend on the seed and the step's number alone: not on the number of processes, of workers, or on where a
run was interrupted. The draws follow the paper's code (its section 4.1; design document, "The method").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from modeling_rdrec.configuration_rdrec import TASKS

from .errors import DatasetError
from .tables import Tables
from .wordings import WORDINGS


# The families of the mixing ratio, in its order; a rationale draw gives one row for each half of the rationale.
FAMILIES = ("explanation", "sequential", "rationale", "topn")
HALVES = ("user_preference", "item_attributes")

# What another batch costs beside its tokens, in tokens: on two CPU cores one more pass forward and back took as long as
# some 300 tokens at a 2-layer model of 128 dimensions, as some 40 at T5-small (benchmarks/speed.py).
BATCH_COST = 256

# Streams of random numbers; the builder's own are below 100, evaluation's from 200.
ORDER_STREAM, DRAW_STREAM, VALIDATION_STREAM = 101, 102, 103


class Row(NamedTuple):
    """One training row: task name (of `TASKS`), prompt and target, both as text."""

    task: str
    prompt: str
    target: str

    @property
    def family(self) -> str:
        return "rationale" if self.task in HALVES else self.task


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
    """

    def __init__(
        self,
        data: TaskData,
        batch_size: int = 64,
        ratio: Sequence[float] = (1, 1, 1, 1),
        seed: int = 0,
        max_history: int = 20,
    ):
        self.data, self.seed, self.max_history = data, seed, max_history
        texts = data.texts["train"]
        lengths = np.array([len(sequence) - 2 for sequence in data.sequences])
        # What one pass of each family goes through: rows of texts, or users.
        self.pools = {
            "explanation": np.arange(len(texts)),
            "sequential": np.flatnonzero(lengths >= 2),
            "rationale": texts.rationale_rows,
            "topn": np.flatnonzero(lengths >= 1),
        }
        self.draws = share_out(batch_size, ratio, [len(self.pools[family]) for family in FAMILIES])
        # An epoch is one pass over the explanation rows (paper); without texts, over the users.
        leader = next(f for f in ("explanation", "sequential", "topn", "rationale") if self.draws[f])
        self.steps_per_epoch = -(-len(self.pools[leader]) // self.draws[leader])
        self._orders: dict[tuple[str, int], np.ndarray] = {}
        # `published` keeps the paper's negatives, which avoid the user's test item too and so give it away a little;
        # `clean` knows the training part only.
        self._seen = [
            np.unique(sequence if data.protocol == "published" else sequence[:-2]) for sequence in data.sequences
        ]

    def _pool_entry(self, family: str, count: int) -> int:
        """Entry of the family's pool at its `count`-th draw: pass after pass, each in an order of its own."""
        pool = self.pools[family]
        turn, place = divmod(count, len(pool))
        key = (family, turn)
        if key not in self._orders:
            # Draws of a step lie side by side, so the order before this one is the oldest that can still be asked for.
            self._orders = {k: v for k, v in self._orders.items() if k[0] != family or k[1] == turn - 1}
            rng = np.random.default_rng([self.seed, ORDER_STREAM, FAMILIES.index(family), turn])
            self._orders[key] = rng.permutation(pool)
        return int(self._orders[key][place])

    def rows(self, step: int) -> list[Row]:
        """Rows of optimizer step `step` (from 0), grouped by family in the order of `FAMILIES`."""
        rng = np.random.default_rng([self.seed, DRAW_STREAM, step])
        rows: list[Row] = []
        for family in FAMILIES:
            make = getattr(self, f"_{family}")
            for count in range(step * self.draws[family], (step + 1) * self.draws[family]):
                rows += make(self._pool_entry(family, count), rng)
        return rows

    def _worded(self, task: str, rng: np.random.Generator, target: object, **fields) -> Row:
        wording = WORDINGS[task][rng.integers(len(WORDINGS[task]))]
        return Row(task, self.data.prompt(task, wording, **fields), str(target))

    def _explanation(self, index: int, rng: np.random.Generator) -> list[Row]:
        texts = self.data.texts["train"]
        user, item = texts.user[index], texts.item[index]
        return [self._worded("explanation", rng, texts.explanation[index], user=user, items=[item])]

    def _rationale(self, index: int, rng: np.random.Generator) -> list[Row]:
        texts = self.data.texts["train"]
        rows = []
        for task in HALVES:
            sentence = getattr(texts, task)[index]
            if sentence:
                rows.append(self._worded(task, rng, sentence, user=texts.user[index], items=[texts.item[index]]))
        return rows

    def _sequential(self, index: int, rng: np.random.Generator) -> list[Row]:
        """A random contiguous segment of the training part, its last item the target."""
        train = self.data.sequences[index][:-2]
        start, end = np.sort(rng.choice(len(train), size=2, replace=False))
        history = train[max(start, end - self.max_history) : end]
        return [self._worded("sequential", rng, train[end], user=index + 1, items=history)]

    def _topn(self, index: int, rng: np.random.Generator) -> list[Row]:
        """One item of the training part among fresh negatives, shuffled."""
        train = self.data.sequences[index][:-2]
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


def validation_rows(data: TaskData, seed: int, max_history: int = 20, max_samples: int | None = None) -> list[Row]:
    """Rows of the validation loss: bare prompts, each family's held-out part, at most `max_samples` draws a family."""
    rng = np.random.default_rng([seed, VALIDATION_STREAM])
    texts, bare = data.texts["validation"], {task: WORDINGS[task][0] for task in TASKS}
    positives, negatives = data.candidates["validation"]

    def some(pool: np.ndarray) -> np.ndarray:
        if max_samples is None or len(pool) <= max_samples:
            return pool
        return np.sort(rng.choice(pool, size=max_samples, replace=False))

    rows = []
    for i in some(np.arange(len(texts))):
        prompt = data.prompt("explanation", bare["explanation"], texts.user[i], [texts.item[i]])
        rows.append(Row("explanation", prompt, texts.explanation[i]))
    for u in some(np.arange(len(data.sequences))):
        *history, target = data.sequences[u][:-1]
        prompt = data.prompt("sequential", bare["sequential"], u + 1, history[-max_history:])
        rows.append(Row("sequential", prompt, str(target)))
    for i in some(texts.rationale_rows):
        for task in HALVES:
            if sentence := getattr(texts, task)[i]:
                rows.append(Row(task, data.prompt(task, bare[task], texts.user[i], [texts.item[i]]), sentence))
    for u in some(np.arange(len(data.sequences))):
        candidates = rng.permutation(np.append(negatives[u], positives[u]))
        rows.append(Row("topn", data.prompt("topn", bare["topn"], u + 1, candidates), str(positives[u])))
    return rows


class Collator:
    """Rows to padded tensors.

    Parameters
    ----------
    tokenizer : RDRecTokenizer
    max_target_length : int
        Targets are cut to so many tokens, `</s>` included (paper: 20).
    reference_padding : bool
        False (default): batches of one family and of similar length, so that no prompt is padded to a much longer one.
        True: the mixed batch of the paper's code, every row padded to the longest and padding counted as target tokens,
        which a model with `reference_padding` needs in order to equal it.
    """

    def __init__(self, tokenizer, max_target_length: int = 20, reference_padding: bool = False):
        self.tokenizer, self.max_target_length, self.reference_padding = (
            tokenizer,
            max_target_length,
            reference_padding,
        )

    def __call__(self, rows: Sequence[Row], part: slice = slice(None)) -> dict:
        """Tensors of a step.

        Parameters
        ----------
        rows : sequence of Row
            All rows of the step.
        part : slice
            The rows of each family that this process and this accumulation turn compute.

        Returns
        -------
        dict
            `groups`: list of (family, batch), families in order of appearance and the batches of each from short to
            long; or one named "mixed". A batch is `{input_ids, attention_mask, whole_word_ids, task_ids, labels,
            target_places}`, int64 `[rows, length]` (`task_ids` `[rows]`); labels are -100 where there is no target,
            `target_places` `[targets]` says where in them, flattened, there is one ("mixed" has none: all count).
            `num_items`: target tokens of the whole step, the divisor that makes the losses of all its parts add up to
            the step's mean.
        """
        labels = self.tokenizer([row.target for row in rows], truncation=True, max_length=self.max_target_length)
        labels = labels["input_ids"]
        if self.reference_padding:
            # The other processes' rows matter to ours, by their length.
            longest = max(map(len, labels))
            mixed = self.tokenizer.pad(self._encode(rows), return_tensors="pt") | {
                "task_ids": torch.tensor([TASKS.index(row.task) for row in rows]),
                "labels": _padded(labels),
            }
            return {
                "groups": [("mixed", {name: tensor[part] for name, tensor in mixed.items()})],
                "num_items": len(rows) * longest,
            }
        members: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            members.setdefault(row.family, []).append(place)
        groups = []
        for family, all_places in members.items():
            places = all_places[part]
            if not places:
                continue
            prompts = self._encode([rows[i] for i in places])
            for bucket in length_buckets([len(ids) for ids in prompts["input_ids"]]):
                chosen = [places[i] for i in bucket]
                batch = self.tokenizer.pad(
                    {name: [column[i] for i in bucket] for name, column in prompts.items()}, return_tensors="pt"
                )
                batch["task_ids"] = torch.tensor([TASKS.index(rows[i].task) for i in chosen])
                batch["labels"] = _padded([labels[i] for i in chosen])
                batch["target_places"] = (batch["labels"].flatten() != -100).nonzero()[:, 0]
                groups.append((family, dict(batch)))
        return {"groups": groups, "num_items": sum(map(len, labels))}

    def _encode(self, rows: Sequence[Row]) -> dict[str, list[list[int]]]:
        return dict(self.tokenizer([row.prompt for row in rows]))


def length_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Share rows among batches so that padding and the cost of further batches are least together.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each row.

    Returns
    -------
    list of list of int
        Places in `lengths`, each once, the batches from short to long; a batch of `n` rows, the longest of `m` tokens,
        counts `n * m + BATCH_COST`.
    """
    order = np.argsort(lengths, kind="stable")
    ordered = np.asarray(lengths)[order]
    # least[j]: the least cost of the j shortest rows; start[j]: where the last of their batches begins.
    least, start = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):
        costs = least[:end] + (end - np.arange(end)) * ordered[end - 1] + BATCH_COST
        start[end] = costs.argmin()
        least[end] = costs[start[end]]
    buckets, end = [], len(order)
    while end:
        buckets.append(order[start[end] : end].tolist())
        end = start[end]
    return buckets[::-1]


def _padded(labels: Sequence[Sequence[int]]) -> torch.Tensor:
    width = max(map(len, labels))
    return torch.tensor([[*row, *[-100] * (width - len(row))] for row in labels])
