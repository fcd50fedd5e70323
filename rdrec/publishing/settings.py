"""What a push is asked for: the flags of `push_to_hub.py`, which `train.py --push_to_hub` fills in itself."""

from dataclasses import dataclass, field


@dataclass
class PushSettings:
    namespace: str = field(metadata={"help": "User or organization that the repos belong to."})
    model: str | None = field(default=None, metadata={"help": "Folder of a checkpoint."})
    dataset: str | None = field(default=None, metadata={"help": "Folder of a built dataset."})
    metrics: list[str] = field(default_factory=list, metadata={"help": "Metric modules: ranking, explanation."})
    space: bool = field(default=False, metadata={"help": "Push a Space that shows the model."})
    hub_model_id: str | None = field(
        default=None,
        metadata={"help": "Another name for the model's repo; with --space, without --model: one on the Hub to show."},
    )
    hub_dataset_id: str | None = field(
        default=None,
        metadata={"help": "Another name for the dataset's repo; with --model alone: what it was trained on."},
    )
    hub_space_id: str | None = field(default=None, metadata={"help": "Another name for the Space than the model's."})
    eval_results: list[str] = field(
        default_factory=list,
        metadata={"help": "Results of other checkpoints to show on the card, such as those of the other protocol."},
    )
    audit: str | None = field(default=None, metadata={"help": "audit.jsonl of the dataset's rationales, for its card."})
    private: bool = field(default=False, metadata={"help": "Make new repos private."})
    revision: str = field(
        default="main",
        metadata={"help": "Branch to push to; made from main if it is new. A Space is on main and shows this branch."},
    )
    tag: str | None = field(default=None, metadata={"help": "Tag for what is pushed, such as v1.0."})
    dry_run: bool = field(default=False, metadata={"help": "List files and sizes; ask and send nothing."})
