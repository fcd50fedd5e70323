"""What a run starts from: a model with its tokenizer, pretrained or new, and its parameters' learning rates."""

import json

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig

from dataset_builder.rationales import RATIONALE_TASKS
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer
from rdrec.checkpoints.loading import load_pretrained
from rdrec.errors import UserError
from rdrec.tasks.data import TaskData
from rdrec.tasks.vocabulary import train_tokenizer
from rdrec.tasks.wordings import WORDINGS

from .recipe import Recipe


NEW_EMBEDDING_STD, NEW_WHOLE_WORD_STD = 0.2, 0.1


def make_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    """The model and tokenizer that training starts from, with the dataset's catalog attached to the tokenizer.

    Raises
    ------
    UserError
        For a checkpoint of another size or kind, or an unknown key of `model_config`.
    """
    if recipe.model_name_or_path is None:
        model, tokenizer = _new_model(recipe, data)
    else:
        model, tokenizer = load_pretrained(recipe.model_name_or_path, recipe.model_revision, recipe.max_whole_words)
    model.config.max_history = recipe.max_history
    model.config.reference_padding = recipe.reference_padding
    model.set_attn_implementation(recipe.attn_implementation)
    tokenizer.set_catalog(**data.raw_ids)
    if recipe.lora_rank is not None:
        _add_adapters(model, recipe)
    return model, tokenizer


def _add_adapters(model: RDRecForConditionalGeneration, recipe: Recipe) -> None:
    """Freeze the weights but for soft prompts and whole words, and put adapters beside the attention's queries and
    values (LoRA, Hu et al., 2021); `save_pretrained` then writes the adapters alone."""
    base, _ = RDRecConfig.get_config_dict(recipe.model_name_or_path, revision=recipe.model_revision)
    if base.get("model_type") != "rdrec":
        raise UserError(
            f"lora_rank: {recipe.model_name_or_path} is a plain T5, which adapters cannot be loaded over: give an "
            "RDRec checkpoint as model_name_or_path"
        )
    model.add_adapter(
        LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=2 * recipe.lora_rank,
            target_modules=["q", "v"],
            modules_to_save=["prompt_embeddings", "whole_word_embeddings"],
            revision=recipe.model_revision,
        )
    )


def _new_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    try:
        settings = json.loads(recipe.model_config)
        assert isinstance(settings, dict)
    except (json.JSONDecodeError, AssertionError):
        raise UserError(f"model_config {recipe.model_config!r}: give a mapping such as {{d_model: 128}}") from None
    known = set(RDRecConfig.__dataclass_fields__)
    for key in settings:
        if key in Recipe.__dataclass_fields__:
            raise UserError(f"model_config: {key} belongs outside it, as a setting of the recipe")
        if key not in known:
            raise UserError(f"model_config: unknown key {key!r}: the keys are those of RDRecConfig")
    catalog = {f"num_{kind}s": len(raw_ids) for kind, raw_ids in data.raw_ids.items()} if recipe.ids_as_tokens else {}
    tokenizer = train_tokenizer(training_texts(data), recipe.vocab_size, recipe.max_whole_words, **catalog)
    defaults = {"vocab_size": len(tokenizer), "max_whole_words": recipe.max_whole_words}
    try:
        # T5 1.1's convention (states are not scaled down before the head) goes with the small embeddings below.
        config = RDRecConfig(**{**defaults, **settings}, tie_word_embeddings=False)
    except StrictDataclassError as error:
        raise UserError(f"model_config: {error.__cause__ or error}") from error
    model = RDRecForConditionalGeneration(config)
    # T5's unit variance is made for Adafactor's relative steps: under AdamW a new model stays for thousands of steps
    # where all items are equally likely.
    torch.nn.init.normal_(model.shared.weight, std=NEW_EMBEDDING_STD)
    torch.nn.init.normal_(model.whole_word_embeddings.weight, std=NEW_WHOLE_WORD_STD)
    return model, tokenizer


def parameter_groups(model: RDRecForConditionalGeneration, recipe: Recipe) -> list[dict]:
    """Parameters for the optimizer: one group, or for a new model two.

    T5 divides no attention score by sqrt(d_kv); its initial query weights are that much smaller instead. AdamW's steps
    know nothing of it, so the queries of a new model, moved at the common rate, saturate the attention at once.
    """
    if recipe.model_name_or_path is not None:
        return [{"params": list(model.parameters()), "lr": recipe.learning_rate}]
    named = list(model.named_parameters())
    queries = [parameter for name, parameter in named if name.endswith(".q.weight")]
    others = [parameter for name, parameter in named if not name.endswith(".q.weight")]
    scale = model.config.d_kv**-0.5
    return [{"params": others, "lr": recipe.learning_rate}, {"params": queries, "lr": recipe.learning_rate * scale}]


def training_texts(data: TaskData):
    """The texts that a vocabulary is trained on: training rows only, and the wordings of prompts."""
    for wordings in WORDINGS.values():
        for wording in wordings:
            yield wording.format(user="", item="", items="")
    texts = data.texts["train"]
    for name in ("explanation", *RATIONALE_TASKS):
        yield from (text for text in getattr(texts, name) if text)
    if not len(texts):
        yield "user item"
