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
    language: list[str] = field(
        default_factory=list,
        metadata={
            "help": "ISO 639 codes of the languages of the reviews, such as en de, for the cards. Default: en for the "
            "sample and the Amazon domains (beauty, sports, toys, musical_instruments, with no --data_source); none "
            "for other reviews, whose language no file tells."
        },
    )
    license: str | None = field(
        default=None,
        metadata={
            "help": "Licence id of the Hub, such as cc-by-4.0, of the model and the dataset; push them one by one to "
            "give each its own. Default: apache-2.0 for models and the sample, other (research use) for reviews."
        },
    )
    pipeline_tag: str = field(
        default="other",
        metadata={
            "help": "Task of the model on the Hub, for its card. The Hub has none for recommendation; under "
            "text-generation its page would show code that cannot load this model."
        },
    )
    data_source: str | None = field(
        default=None,
        metadata={
            "help": "Where the reviews come from, one line for the cards, such as 'Orders of Example Ltd "
            "https://example.com/data'. Default: the cards speak of one shop's reviews, released for research."
        },
    )
    pseudonyms: str | None = field(
        default=None,
        metadata={
            "help": "Publish pseudonyms in place of the raw ids of users, and keep who is who in this JSON file, which "
            "is not sent. A file of an earlier push gives the same pseudonyms again."
        },
    )
    private: bool = field(default=False, metadata={"help": "Make new repos private."})
    revision: str = field(
        default="main",
        metadata={"help": "Branch to push to; made from main if it is new. A Space is on main and shows this branch."},
    )
    tag: str | None = field(default=None, metadata={"help": "Tag for what is pushed, such as v1.0."})
    dry_run: bool = field(default=False, metadata={"help": "List files and sizes; ask and send nothing."})
