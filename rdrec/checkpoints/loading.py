"""Checkpoints and their tokenizers from a folder or the Hub, and whether one belongs to a dataset.

model, tokenizer = load_pretrained("runs/beauty")
check_same_catalog(tokenizer, data, "runs/beauty", "data/beauty")
"""

import json
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration, RDRecTokenizer
from rdrec.errors import UserError
from rdrec.tasks.data import TaskData

from .files import ADAPTER_WEIGHTS_FILE


def kind_of(name: str, revision: str | None = None) -> str:
    """What a folder or repo holds: "t5", "rdrec" or "adapters"; errors as in `load_pretrained`."""
    adapter, stored = _stored(name, revision)
    return "adapters" if adapter is not None else stored.get("model_type")


def _stored(name: str, revision: str | None) -> tuple[str | None, dict | None]:
    """The file of an adapter's configuration, or else the configuration of a checkpoint."""
    try:
        adapter = find_adapter_config_file(name, revision=revision)
        return adapter, None if adapter else RDRecConfig.get_config_dict(name, revision=revision)[0]
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{name}: neither a folder here nor a checkpoint that can be had from the Hub: {reason}"
        ) from error


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
    UserError
        For a checkpoint that is neither T5 nor RDRec, has no safetensors, is damaged, or is of another size.
    """
    adapter, stored = _stored(name, revision)
    if adapter is not None:
        over = json.loads(Path(adapter).read_text(encoding="utf-8"))
        # Without this file peft would take the pickled one.
        if (
            cached_file(name, ADAPTER_WEIGHTS_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
            is None
        ):
            raise UserError(f"{name}: no {ADAPTER_WEIGHTS_FILE}; pickled weights are not read: save the adapters again")
        base, _ = load_pretrained(over["base_model_name_or_path"], over.get("revision"), max_whole_words)
        model = PeftModel.from_pretrained(base, name, revision=revision).merge_and_unload()
        return model, load_tokenizer(RDRecTokenizer, name, revision)
    kind = stored.get("model_type")
    if kind not in ("t5", "rdrec"):
        raise UserError(f"{name}: a checkpoint of kind {kind!r}: give a T5 or RDRec checkpoint")
    rows = stored.get("max_whole_words", RDRecConfig.max_whole_words)
    if kind == "rdrec" and max_whole_words not in (None, rows):
        raise UserError(
            f"{name}: its whole-word table has {rows} rows, not {max_whole_words}: set max_whole_words {rows}"
        )
    rows = rows if max_whole_words is None else max_whole_words
    try:
        model, report = RDRecForConditionalGeneration.from_pretrained(
            name, revision=revision, max_whole_words=rows, output_loading_info=True, use_safetensors=True
        )
    except RuntimeError as error:  # transformers raises it for tensors whose shapes differ
        raise UserError(f"{name}: its weights are of another size than its config.json says: get it anew") from error
    except SafetensorError as error:
        raise UserError(f"{name}: its weights are damaged ({error}): get it anew") from error
    except OSError as error:  # none in the folder, or none in the cache while the Hub cannot be reached
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: its weights are not all there ({reason}): get it anew") from error
    new = {"prompt_embeddings.weight", "whole_word_embeddings.weight"} if kind == "t5" else set()
    if missing := set(report["missing_keys"]) - new:
        raise UserError(f"{name}: its weights lack {min(missing)}: get it anew")
    if kind == "rdrec":
        tokenizer = load_tokenizer(RDRecTokenizer, name, revision)
    else:
        tokenizer = rdrec_tokenizer(load_tokenizer(AutoTokenizer, name, revision), rows)
    if len(tokenizer) > model.config.vocab_size:
        raise UserError(
            f"{name}: its tokenizer has {len(tokenizer)} pieces, its model {model.config.vocab_size} embeddings: they "
            "do not belong together, get both anew"
        )
    return model, tokenizer


def load_tokenizer(kind: type, name: str, revision: str | None = None):
    """A tokenizer of a kind (`RDRecTokenizer`, or `AutoTokenizer` for what is stored) from a folder or the Hub.

    Raises
    ------
    UserError
        There is none.
    """
    try:
        return kind.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:  # transformers raises either where files are missing
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{name}: no tokenizer there, or none that can be had from the Hub: {reason}") from error


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


def check_same_catalog(tokenizer: RDRecTokenizer, data: TaskData, model: str, dataset: str) -> None:
    """Raise UserError when a checkpoint was trained on another catalog than the dataset's."""
    if tokenizer.catalog is not None and tokenizer.catalog != data.raw_ids:
        raise UserError(
            f"{model}: trained on a catalog of {tokenizer.num_ids('user')} users and {tokenizer.num_ids('item')} "
            f"items, {dataset} has {len(data.raw_ids['user'])} and {data.num_items} or others: give the "
            "dataset it was trained on"
        )
