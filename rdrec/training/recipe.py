"""The recipe of a training run: every setting, its default and its help. One YAML file in `recipes/` an experiment."""

import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

from modeling_rdrec.configuration_rdrec import FITTED_ON, HISTORIES
from rdrec.errors import UserError


def setting(default, help: str):
    """A field of the recipe with its help text; a list becomes a default factory."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class Recipe:
    """Settings of one run. Figures without a source of their own are the paper's (section 4.1)."""

    dataset: str = setting("sample", "Built dataset: folder, Hub dataset id, or 'sample' for the embedded sample.")
    dataset_revision: str | None = setting(None, "Branch, tag or commit of a Hub dataset.")
    output_dir: str | None = setting(
        None, "Folder of the run: best model, checkpoints, logs, record; default: runs/ and the dataset's name."
    )

    model_name_or_path: str | None = setting(
        None,
        "Pretrained T5 or RDRec checkpoint to start from; default: google-t5/t5-small, unless model_config is given. "
        "As a flag it takes the place of a recipe's model_config.",
    )
    model_revision: str | None = setting(None, "Branch, tag or commit of a Hub model.")
    model_config: str | None = setting(
        None, "Start a new model of this configuration, a mapping of RDRecConfig's keys (as a flag: JSON)."
    )
    vocab_size: int = setting(2000, "Of a new model: pieces of the vocabulary trained on the dataset.")
    ids_as_tokens: bool = setting(False, "Of a new model: a piece of the vocabulary for each item, and each user read.")
    history: str | None = setting(
        None,
        "decoder: the decoder reads a user's items, each of which is a target; encoder: they stand in the prompt, as "
        "in the paper. Default: what an RDRec checkpoint to start from does, otherwise decoder.",
    )
    user_dropout: float = setting(
        1.0, "With history decoder: share of recommendation prompts that do not name the user."
    )
    item_text: list[str] = setting(
        ["catalog", "item_attributes", "explanation"],
        "With ids_as_tokens and history decoder: texts that items' vectors are composed of (catalog, item_attributes, "
        "explanation, user_preference; of training reviews), or none.",
    )
    item_text_min_count: int = setting(3, "Items whose text must hold a piece for it to count.")
    evidence: list[str] = setting(
        ["item_attributes", "user_preference", "explanation", "catalog"],
        "With history decoder: texts of training reviews (and the catalog's) that explanations rest on; they stand in "
        "the prompt and travel with the checkpoint. none: as in the paper.",
    )
    evidence_weight: float | None = setting(
        None, "What support counts when one of several explanations is chosen; default: chosen on validation."
    )
    own_dropout: float = setting(
        0.0, "Share of items whose vector is their text alone in a step, which prepares a model for new items."
    )
    softmax_negatives: int | None = setting(
        None, "With history decoder: random items that the targets of a step are told from; default: all items."
    )
    fit_on: str = setting(
        "train",
        "train; train+validation; or all, for production, which cannot be evaluated. Beyond train nothing is left to "
        "choose the best model by: the last one is kept.",
    )
    prior_weight: float | None = setting(
        None, "Weight of counted transitions beside the model; 0: none; default: chosen on validation."
    )
    prior_offset: float = setting(0.1, "Added to each count of the prior, where prior_weight is given.")
    max_whole_words: int = setting(512, "Rows of the whole-word table.")
    reference_padding: bool = setting(
        False, "Mixed padded batches, padding counted in the loss and attended to, as in the paper's code."
    )
    attn_implementation: str = setting("sdpa", "sdpa or eager.")
    lora_rank: int | None = setting(
        None, "Train low-rank adapters over the RDRec checkpoint model_name_or_path, its prompts and whole words."
    )
    gradient_checkpointing: bool = setting(False, "Trade compute for memory.")
    torch_compile: bool = setting(False, "Compile the model with dynamic shapes.")

    task_ratio: list[float] = setting(
        [1.0, 1.0, 1.0, 1.0], "Shares of explanation, sequential, rationale and top-N in a step."
    )
    train_batch_size: int = setting(64, "Draws a step over all processes; a rationale draw gives two rows.")
    gradient_accumulation_steps: int = setting(1, "Parts in which a step is computed; the result stays the same.")
    max_target_length: int = setting(20, "Targets are cut to so many tokens.")
    max_history: int | None = setting(
        None, "Most items of a history that are read; default: 20 in the prompt (paper), 50 in the decoder."
    )
    dataloader_num_workers: int = setting(0, "Processes that prepare batches ahead; 0: the training process itself.")

    learning_rate: float = setting(5e-4, "Peak learning rate of AdamW.")
    weight_decay: float = setting(0.01, "Weight decay of AdamW.")
    adam_beta2: float = setting(0.999, "Decay of AdamW's second moment.")
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.")
    lr_scheduler_type: str = setting("constant", "Any schedule of transformers: constant, linear, cosine, …")
    num_warmup_steps: int = setting(0, "Steps over which the learning rate rises.")
    num_train_epochs: float = setting(
        100.0, "Most epochs; one is a pass over the explanation rows (paper), with history decoder over the users."
    )
    max_train_steps: int | None = setting(None, "Most optimizer steps; wins over num_train_epochs.")
    early_stopping_patience: int = setting(5, "Stop after so many validations without a better model; 0: never.")
    metric_for_best_model: str | None = setting(
        None, "ndcg@10 (sequential, validation) or loss; default: ndcg@10 with history decoder, otherwise loss (paper)."
    )
    mixed_precision: str | None = setting(None, "no, fp16 or bf16; default: what `accelerate config` says.")
    seed: int = setting(42, "Seed of initial weights, draws, wordings, negatives and dropout.")

    eval_steps: int | None = setting(None, "Steps between validations; default: one after each epoch, as in the paper.")
    eval_batch_size: int = setting(64, "Rows a batch of the validation loss.")
    max_eval_samples: int | None = setting(None, "Most rows or users a task in the validation; default: all.")
    logging_steps: int = setting(10, "Steps between log entries.")
    save_steps: int | None = setting(None, "Steps between checkpoints, besides the one after each epoch.")
    report_to: str = setting("tensorboard", "Tracker of accelerate (tensorboard, wandb, …) or none.")
    resume_from_checkpoint: str | None = setting(
        None, "Go on exactly where a run stopped: 'last' for that of output_dir, or a checkpoint folder."
    )
    overwrite_output_dir: bool = setting(False, "Start anew in an output_dir that holds a run.")
    push_to_hub: bool = setting(False, "Publish the best model when training is done, with its card.")
    hub_model_id: str | None = setting(None, "Repo to publish it in: NAMESPACE/NAME.")
    hub_private_repo: bool = setting(False, "Make that repo private if it is new.")
    hub_revision: str = setting("main", "Branch to publish it on.")

    INSTEAD_OF: ClassVar[dict[str, str]] = {"model_name_or_path": "model_config"}

    def __post_init__(self):
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} {value}: give more than 0")
        if self.model_name_or_path is None and self.model_config is None:
            self.model_name_or_path = "google-t5/t5-small"
        if self.model_name_or_path is not None and self.model_config is not None:
            raise UserError("model_name_or_path and model_config are both given: a run starts from one of them")
        if self.lora_rank is not None and self.model_name_or_path is None:
            raise UserError("lora_rank: adapters need a checkpoint under them: give model_name_or_path")
        if self.push_to_hub and self.hub_model_id is None:
            raise UserError("push_to_hub: say where: give hub_model_id NAMESPACE/NAME")
        for name, known in (("history", HISTORIES), ("metric_for_best_model", METRICS)):
            if getattr(self, name) not in (None, *known):
                raise UserError(f"{name} {getattr(self, name)!r}: take one of {', '.join(known)}")
        if self.fit_on not in FITTED_ON:
            raise UserError(f"fit_on {self.fit_on!r}: take one of {', '.join(FITTED_ON)}")
        for name in ("item_text", "evidence"):
            if unknown := set(getattr(self, name)) - {*ITEM_TEXTS, "none"}:
                raise UserError(f"{name} {min(unknown)!r}: take some of {', '.join(ITEM_TEXTS)}, or none")
        for name in ("prior_weight", "evidence_weight"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise UserError(f"{name} {getattr(self, name)}: give 0 (none) or more")
        for name in ("user_dropout", "own_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name)}: give a share between 0 and 1")
        if self.output_dir is None:
            self.output_dir = f"runs/{self.dataset.rstrip('/').rsplit('/', 1)[-1]}"

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)

    def reproducing(self) -> dict:
        """The settings that make this run again: without the flags that concern one start only."""
        return {key: value for key, value in self.as_dict().items() if key not in ONE_START}


POSITIVE = (
    "train_batch_size",
    "gradient_accumulation_steps",
    "max_target_length",
    "max_history",
    "vocab_size",
    "learning_rate",
    "num_train_epochs",
    "max_train_steps",
    "eval_batch_size",
    "eval_steps",
    "max_eval_samples",
    "logging_steps",
    "save_steps",
    "lora_rank",
    "softmax_negatives",
    "item_text_min_count",
    "prior_offset",
)
METRICS = ("ndcg@10", "loss")
ITEM_TEXTS = ("catalog", "item_attributes", "explanation", "user_preference")

PUBLISHING = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_revision")
ONE_START = ("resume_from_checkpoint", "overwrite_output_dir", *PUBLISHING)

# What may differ between a run and its continuation: where it writes, how long and how fast it goes.
FREE_ON_RESUME = {
    "output_dir",
    "dataset",
    "dataset_revision",
    "resume_from_checkpoint",
    "overwrite_output_dir",
    "num_train_epochs",
    "max_train_steps",
    "early_stopping_patience",
    "dataloader_num_workers",
    "gradient_accumulation_steps",
    "logging_steps",
    "save_steps",
    "report_to",
    "eval_batch_size",
    "torch_compile",
    "gradient_checkpointing",
    *PUBLISHING,
}
