"""What a run starts from: the dataset, and a model with its tokenizer, pretrained or new."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from dataset_builder.tables import INFO_FILE, Tables, load_tables
from dataset_builder.tasks import HALVES, TaskData
from dataset_builder.vocabulary import train_tokenizer
from dataset_builder.wordings import WORDINGS
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer

from .recipe import Recipe


SAMPLE_DIR = "data/sample"
NEW_EMBEDDING_STD, NEW_WHOLE_WORD_STD = 0.2, 0.1
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "huggingface_hub", "numpy", "pyarrow")


def load_tables_of(dataset: str, revision: str | None = None) -> Tables:
    """Read a built dataset; the name `sample` builds the embedded sample in `data/sample` if it is not there yet."""
    if dataset == "sample":
        from dataset_builder.sample import build_sample

        info_file = Path(SAMPLE_DIR) / INFO_FILE
        # A sample of an older version is replaced; a user's own dataset in that place never is.
        outdated = info_file.is_file() and json.loads(info_file.read_text())["source"].get("kind") == "sample"
        dataset = str(build_sample(SAMPLE_DIR, overwrite=outdated))
    return load_tables(dataset, revision)


def use_all_cores(accelerator: Accelerator) -> None:
    """On a CPU, share the cores among the processes: `accelerate launch` leaves a process one thread by default."""
    if accelerator.device.type == "cpu":
        allowed = getattr(os, "sched_getaffinity", None)  # not on macOS
        cores = len(allowed(0)) if allowed else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // accelerator.num_processes))


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def make_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    """The model and tokenizer that training starts from, with the dataset's catalog attached to the tokenizer.

    Raises
    ------
    ValueError
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
        raise ValueError(
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


def load_pretrained(
    name: str, revision: str | None = None, max_whole_words: int | None = None
) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    """Load a T5 or RDRec checkpoint and its tokenizer from a folder or the Hub; adapters are merged into their base.

    Parameters
    ----------
    name, revision : str
    max_whole_words : int, optional
        Rows of the whole-word table that a plain T5 gets; an RDRec checkpoint has its own, which must be that.

    Raises
    ------
    ValueError
        For a checkpoint that is neither T5 nor RDRec, is damaged, or is of another size.
    """
    try:
        adapter = find_adapter_config_file(name, revision=revision)
        stored = None if adapter else RDRecConfig.get_config_dict(name, revision=revision)[0]
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{name}: neither a folder here nor a checkpoint that can be had from the Hub: {reason}"
        ) from error
    if adapter is not None:
        over = json.loads(Path(adapter).read_text(encoding="utf-8"))
        base, _ = load_pretrained(over["base_model_name_or_path"], over.get("revision"), max_whole_words)
        model = PeftModel.from_pretrained(base, name, revision=revision).merge_and_unload()
        return model, RDRecTokenizer.from_pretrained(name, revision=revision)
    kind = stored.get("model_type")
    if kind not in ("t5", "rdrec"):
        raise ValueError(f"{name}: a checkpoint of kind {kind!r}: give a T5 or RDRec checkpoint")
    rows = stored.get("max_whole_words", RDRecConfig.max_whole_words)
    if kind == "rdrec" and max_whole_words not in (None, rows):
        raise ValueError(
            f"{name}: its whole-word table has {rows} rows, not {max_whole_words}: set max_whole_words {rows}"
        )
    rows = rows if max_whole_words is None else max_whole_words
    try:
        model, report = RDRecForConditionalGeneration.from_pretrained(
            name, revision=revision, max_whole_words=rows, output_loading_info=True
        )
    except RuntimeError as error:  # transformers raises it for tensors whose shapes differ
        raise ValueError(f"{name}: its weights are of another size than its config.json says: get it anew") from error
    except SafetensorError as error:
        raise ValueError(f"{name}: its weights are damaged ({error}): get it anew") from error
    except OSError as error:  # none in the folder, or none in the cache while the Hub cannot be reached
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name}: its weights are not all there ({reason}): get it anew") from error
    new = {"prompt_embeddings.weight", "whole_word_embeddings.weight"} if kind == "t5" else set()
    if missing := set(report["missing_keys"]) - new:
        raise ValueError(f"{name}: its weights lack {min(missing)}: get it anew")
    if kind == "rdrec":
        tokenizer = RDRecTokenizer.from_pretrained(name, revision=revision)
    else:
        tokenizer = rdrec_tokenizer(AutoTokenizer.from_pretrained(name, revision=revision), rows)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"{name}: its tokenizer has {len(tokenizer)} pieces, its model {model.config.vocab_size} embeddings: they "
            "do not belong together, get both anew"
        )
    return model, tokenizer


def rdrec_tokenizer(base, max_whole_words: int) -> RDRecTokenizer:
    """A plain T5 tokenizer as one of ours."""
    return RDRecTokenizer(
        tokenizer_object=base.backend_tokenizer,
        max_whole_words=max_whole_words,
        eos_token=base.eos_token,
        unk_token=base.unk_token,
        pad_token=base.pad_token,
        extra_special_tokens=base.extra_special_tokens,
    )


def _new_model(recipe: Recipe, data: TaskData) -> tuple[RDRecForConditionalGeneration, RDRecTokenizer]:
    try:
        settings = json.loads(recipe.model_config)
        assert isinstance(settings, dict)
    except (json.JSONDecodeError, AssertionError):
        raise ValueError(f"model_config {recipe.model_config!r}: give a mapping such as {{d_model: 128}}") from None
    known = set(RDRecConfig.__dataclass_fields__)
    for key in settings:
        if key in Recipe.__dataclass_fields__:
            raise ValueError(f"model_config: {key} belongs outside it, as a setting of the recipe")
        if key not in known:
            raise ValueError(f"model_config: unknown key {key!r}: the keys are those of RDRecConfig")
    catalog = {f"num_{kind}s": len(raw_ids) for kind, raw_ids in data.raw_ids.items()} if recipe.ids_as_tokens else {}
    tokenizer = train_tokenizer(training_texts(data), recipe.vocab_size, recipe.max_whole_words, **catalog)
    defaults = {"vocab_size": len(tokenizer), "max_whole_words": recipe.max_whole_words}
    try:
        # T5 1.1's convention (states are not scaled down before the head) goes with the small embeddings below.
        config = RDRecConfig(**{**defaults, **settings}, tie_word_embeddings=False)
    except StrictDataclassError as error:
        raise ValueError(f"model_config: {error.__cause__ or error}") from error
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
    for name in ("explanation", *HALVES):
        yield from (text for text in getattr(texts, name) if text)
    if not len(texts):
        yield "user item"


def check_same_catalog(tokenizer: RDRecTokenizer, data: TaskData, model: str, dataset: str) -> None:
    """Raise ValueError when a checkpoint was trained on another catalog than the dataset's."""
    if tokenizer.catalog is not None and tokenizer.catalog != data.raw_ids:
        raise ValueError(
            f"{model}: trained on a catalog of {tokenizer.num_ids('user')} users and {tokenizer.num_ids('item')} "
            f"items, {dataset} has {len(data.raw_ids['user'])} and {data.num_items} or others: give the "
            "dataset it was trained on"
        )
