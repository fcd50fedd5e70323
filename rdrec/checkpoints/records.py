"""What a training, an evaluation and a conversion leave behind beside the weights: JSON files that later steps read.

    record = TrainingRecord.read(folder / RECORD_FILE)
    record.best_step

A field is a key of the file, in this order. A field added later needs a default, which is what older files get.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin

from rdrec.durable import write_json
from rdrec.errors import UserError


# What a record keeps of the dataset's `build_info.json` (a training's record also keeps `source`, its input files).
DATASET_KEYS = ("domain", "protocol", "seed", "counts", "fingerprint")


@dataclass(kw_only=True)
class Record:
    """A JSON file with known keys. A field whose name Python reserves ends in an underscore, its key does not."""

    written_by: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        """Keys and values as they stand in the file."""
        return {one.name.rstrip("_"): getattr(self, one.name) for one in dataclasses.fields(self)}

    def write(self, path: Path) -> None:
        write_json(path, self.as_dict())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; keys that are not known are ignored, those that have a default may be missing.

        Raises
        ------
        UserError
            No such file, or one that is no such record.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file: check the path")
        content = read_json(path)
        values = {}
        for one in dataclasses.fields(cls):
            key = one.name.rstrip("_")
            if key not in content and _has_default(one):
                continue
            if key not in content or not _fits(content[key], one.type):
                raise UserError(
                    f"{path}: not a file that {cls.written_by} wrote ({key!r} is missing or of another kind): "
                    "make it again, or delete it"
                )
            values[one.name] = content[key]
        dataset = values.get("dataset")
        if dataset is not None and not set(DATASET_KEYS) <= set(dataset):
            raise UserError(
                f"{path}: not a file that {cls.written_by} wrote ('dataset' lacks some of {', '.join(DATASET_KEYS)}): "
                "make it again, or delete it"
            )
        return cls(**values)

    @classmethod
    def find(cls, path: Path) -> Self | None:
        """`read`, or None where there is no such file."""
        return cls.read(path) if path.is_file() else None


@dataclass(kw_only=True)
class TrainingRecord(Record):
    """`training_record.json`: everything needed to run a training again and to see whether it came out the same."""

    written_by: ClassVar[str] = "train.py"

    recipe: dict[str, Any]  # settings, as `Recipe` has them
    dataset: dict[str, Any]
    model: dict[str, Any]  # "parameters", their number, and "config"
    steps: int
    steps_per_epoch: float | None = None
    draws_per_step: dict[str, int] | None = None
    stopped_early: bool | None = None
    best_step: int
    best_validation_loss: float | None  # mean of the text tasks; None without texts, or where nothing is held out
    fit_on: str = "train"
    metric_for_best_model: str = "loss"
    best_metric: float | None = None
    prior: dict[str, Any] | None = None  # "weight", "offset", and validation figures "with" and "without"
    explanation: dict[str, Any] | None = None  # "weight" of support, and validation figures "without" and "with" it
    validation: list[dict[str, float]] = field(default_factory=list)
    minutes: float
    tokens_per_second: float
    share_of_step_time_spent_on_data: float | None = None
    processes: int
    device: str
    mixed_precision: str
    versions: dict[str, str]

    def summary(self) -> str:
        """How good the kept model is on validation, and which step's it is."""
        # Older records have the loss alone.
        value = self.best_metric if self.metric_for_best_model != "loss" else self.best_validation_loss
        if value is None:
            return f"fitted on {self.fit_on}, the model of step {self.best_step} of {self.steps}"
        return f"best validation {self.metric_for_best_model} {value:.4f} at step {self.best_step} of {self.steps}"


@dataclass(kw_only=True)
class EvaluationResults(Record):
    """`eval_results.json`, `eval_results_validation.json`: metrics of a checkpoint by task, and how they were taken."""

    written_by: ClassVar[str] = "eval.py"

    model: str | None = None  # name of its folder or repo
    model_revision: str | None = None
    model_sha256: str | None = None  # None: not in one file of a local folder
    dataset: dict[str, Any]
    protocol: str
    split: str
    seed: int | None = None
    max_samples: int | None = None  # None: all queries
    exact: bool | None = None
    length_penalty: float | None = None
    batch_size: int | None = None
    mixed_precision: str | None = None
    processes: int | None = None
    queries: dict[str, int] = field(default_factory=dict)  # by task
    results: dict[str, dict[str, float]]  # by task and metric
    variants: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # the model asked in another way
    beyond_accuracy: dict[str, dict[str, float]] = field(default_factory=dict)  # by task and metric
    # By task, kind of segment and segment: "queries" and metrics.
    segments: dict[str, dict[str, dict[str, dict[str, float]]]] = field(default_factory=dict)
    fit_on: str = "train"
    reference_points: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)  # by task, baseline, metric
    minutes: dict[str, float] = field(default_factory=dict)  # by task
    cores: int | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class ConversionRecord(Record):
    """`conversion_record.json`: which file of the paper's code a checkpoint was made from."""

    written_by: ClassVar[str] = "convert_original_checkpoint.py"

    source: str  # name of the file
    source_sha256: str
    class_: str | None = None
    tokenizer: str | None = None
    num_tasks: int | None = None
    prompt_length: int | None = None
    dataset: dict[str, Any] | None = None
    versions: dict[str, str] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that is an object.

    Raises
    ------
    UserError
        For a file that is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}): make it again, or delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object: make it again, or delete it")
    return content


def _has_default(one: dataclasses.Field) -> bool:
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a field's kind; what containers hold is not looked at."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    kind = get_origin(kind) or kind
    return isinstance(value, int | float if kind is float else kind)
