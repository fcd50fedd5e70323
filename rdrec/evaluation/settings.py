"""What an evaluation is asked for: the flags of `eval.py`."""

from dataclasses import dataclass, field

from rdrec.errors import UserError


TASKS = ("sequential", "topn", "explanation")


@dataclass
class EvaluationSettings:
    model: str = field(metadata={"help": "Checkpoint: folder or Hub model id."})
    dataset: str = field(metadata={"help": "Built dataset: folder, Hub dataset id, or 'sample'."})
    tasks: list[str] = field(
        default_factory=lambda: list(TASKS), metadata={"help": "Which of sequential, topn, explanation."}
    )
    protocol: str | None = field(
        default=None, metadata={"help": "clean or published; default: what the dataset was built under."}
    )
    exact: bool = field(
        default=False,
        metadata={"help": "Sequential: the proven best of the whole catalog instead of 20 beams (clean)."},
    )
    length_penalty: float = field(
        default=0.0,
        metadata={"help": "Divide log-likelihoods by an id's tokens to this power (clean; published has 1)."},
    )
    support: bool = field(
        default=False,
        metadata={"help": "Explanations: also the share that the item's reviews support (slow, needs MiniLM)."},
    )
    split: str = field(default="test", metadata={"help": "validation or test."})
    output_dir: str | None = field(default=None, metadata={"help": "Default: the model's folder, else eval_results."})
    batch_size: int = field(
        default=32, metadata={"help": "Users a batch; at least 256 where the decoder reads histories."}
    )
    max_samples: int | None = field(default=None, metadata={"help": "Only so many queries a task, the first ones."})
    mixed_precision: str | None = field(default=None, metadata={"help": "no or bf16."})
    seed: int = field(default=0, metadata={"help": "Seed of the candidates' order and of the baselines' ties."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub model."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub dataset."})

    def __post_init__(self):
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise UserError(f"--tasks {unknown[0]}: unknown, take some of {', '.join(TASKS)}")
        if self.split not in ("validation", "test"):
            raise UserError(f"--split {self.split}: take validation or test")
        if self.protocol not in (None, "clean", "published"):
            raise UserError(f"--protocol {self.protocol}: take clean or published")
        if self.mixed_precision not in (None, "no", "fp16", "bf16"):
            raise UserError(f"--mixed_precision {self.mixed_precision}: take no, fp16 or bf16")
        for name in ("batch_size", "max_samples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: give 1 or more")
        if self.length_penalty < 0:
            raise UserError(f"--length_penalty {self.length_penalty}: give 0 or more")
