"""Publish a checkpoint and its dataset on the Hugging Face Hub, with cards, and check what arrived.

    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --dry-run
    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --private --tag v1.0
    python push_to_hub.py --model runs/beauty --dataset data/beauty --namespace rdrec --space
    python push_to_hub.py --metrics ranking explanation --namespace rdrec

The dataset goes to NAMESPACE/DOMAIN-rationales, the model to NAMESPACE/rdrec-DOMAIN, the Space that shows it to its
name; those of the `published` protocol end in `-published`. Each repo changes in one commit or, where nothing changed,
in none; a push that was cut goes on when the same command is given again. The token is that of `hf auth login`, or
HF_TOKEN.
"""

from dataclasses import dataclass, field

from rdrec.arguments import parse_arguments, run
from rdrec.publishing.release import Release


@dataclass
class Arguments:
    namespace: str = field(metadata={"help": "User or organization that the repos belong to."})
    model: str | None = field(default=None, metadata={"help": "Folder of a checkpoint."})
    dataset: str | None = field(default=None, metadata={"help": "Folder of a built dataset."})
    metrics: list[str] = field(default_factory=list, metadata={"help": "Metric modules: ranking, explanation."})
    space: bool = field(default=False, metadata={"help": "Publish a Space that shows the model."})
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
        metadata={
            "help": "Branch to publish on; made from main if it is new. A Space is on main and shows this branch."
        },
    )
    tag: str | None = field(default=None, metadata={"help": "Tag for what is published, such as v1.0."})
    dry_run: bool = field(default=False, metadata={"help": "List files and sizes; ask and send nothing."})


def main() -> int:
    Release(parse_arguments(Arguments, __doc__)).run()
    return 0


if __name__ == "__main__":
    run(main)
