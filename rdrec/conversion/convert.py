"""A checkpoint of the reference implementation becomes one of ours: names, configuration, tokenizer, record."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from dataset_builder.files import sha256_of
from dataset_builder.tables import load_tables
from modeling_rdrec import RDRecConfig, RDRecForConditionalGeneration
from rdrec.checkpoints.environment import package_versions
from rdrec.checkpoints.files import CONVERSION_FILE
from rdrec.checkpoints.loading import load_tokenizer, rdrec_tokenizer
from rdrec.checkpoints.records import DATASET_KEYS, ConversionRecord
from rdrec.durable import replace_folder
from rdrec.tasks.data import TaskData

from .unpickle import Checkpoint, CheckpointError, Shell


SHARED, PROMPTS, WHOLE_WORDS = "shared.weight", "prompt_embeddings.weight", "whole_word_embeddings.weight"
# Under these names, too, T5 holds its shared embeddings.
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD = "lm_head.weight"


def convert(
    source: Path, output_dir: Path, tokenizer_name: str, prompt_length: int, dataset: str | None = None
) -> ConversionRecord:
    """Convert a file and write the checkpoint; the record of it, as in `conversion_record.json`.

    Parameters
    ----------
    source : Path
        A file that the reference implementation saved with `torch.save`: the module, or its state dict.
    output_dir : Path
        New folder.
    tokenizer_name : str
        The T5 tokenizer it was trained with: folder or Hub id.
    prompt_length : int
        Soft-prompt vectors a task, where the file does not say.
    dataset : str, optional
        Built dataset (`published` protocol) whose catalog the checkpoint knows.

    Raises
    ------
    UserError
        For a file that is refused (CheckpointError) or holds another model, and where there is no such tokenizer.
    """
    if output_dir.exists() and any(output_dir.iterdir()):
        raise CheckpointError(f"--output_dir {output_dir}: not empty; name another folder")
    checkpoint = Checkpoint(source)
    module = checkpoint.root if isinstance(checkpoint.root, Shell) else None
    tensors = _tensors(source, checkpoint)
    config = _config(source, {} if module is None else module.state, tensors, prompt_length)
    model = _model(source, config, tensors)
    tokenizer = rdrec_tokenizer(load_tokenizer(AutoTokenizer, tokenizer_name), config.max_whole_words)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{tokenizer_name}: {len(tokenizer)} pieces, the checkpoint has {config.vocab_size} embeddings: give the "
            "--tokenizer it was trained with"
        )
    record = ConversionRecord(
        source=source.name,
        source_sha256=sha256_of(source),
        class_="state dict" if module is None else module.kind,
        tokenizer=tokenizer_name if not Path(tokenizer_name).exists() else Path(tokenizer_name).name,
        num_tasks=config.num_tasks,
        prompt_length=config.prompt_length,
        dataset=None,
        versions=package_versions(),
    )
    if dataset is not None:
        data = TaskData(load_tables(dataset))
        tokenizer.set_catalog(**data.raw_ids)
        record.dataset = {key: data.info[key] for key in DATASET_KEYS}

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record.write(folder / CONVERSION_FILE)

    replace_folder(output_dir, write)
    return record


def _tensors(source: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Tensors by name, each once: without the further names that T5 has for its shared embeddings."""
    tensors = checkpoint.state_dict()
    for name in (SHARED, PROMPTS, WHOLE_WORDS):
        if name not in tensors:
            raise CheckpointError(f"{source}: no {name}, so no model of the reference implementation")
    for name in TIED:
        if name in tensors and not torch.equal(tensors.pop(name), tensors[SHARED]):
            raise CheckpointError(f"{source}: {name} differs from {SHARED}, which T5 shares; get it anew")
    if HEAD in tensors and not torch.equal(tensors.pop(HEAD), tensors[SHARED]):
        raise CheckpointError(f"{source}: its head is not tied to its embeddings, unlike the reference's")
    return tensors


def _model(source: Path, config: RDRecConfig, tensors: dict[str, torch.Tensor]) -> RDRecForConditionalGeneration:
    """A model of the configuration with all the tensors, and no others."""
    model = RDRecForConditionalGeneration(config)
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # shapes
        raise CheckpointError(f"{source}: {' '.join(str(error).split())}") from error
    missing = [name for name in missing if name not in (*TIED, HEAD)]
    if missing or unexpected:
        raise CheckpointError(f"{source}: does not fit its configuration: {[*missing, *unexpected][0]}")
    model.tie_weights()
    return model


def _config(source: Path, module: dict[str, Any], tensors: dict[str, torch.Tensor], prompt_length: int) -> RDRecConfig:
    """Our configuration: what the saved one says where there is one, and what the tensors' shapes say in any case.

    `module` holds the attributes of the saved module, none for a state dict; `prompt_length` is used where they do not
    tell it.
    """
    told, saved = module.get("prompts_per_task"), module.get("config")
    prompt_length = told if type(told) is int else prompt_length
    rows = tensors[PROMPTS].shape[0]
    if prompt_length < 1 or rows % prompt_length:
        raise CheckpointError(
            f"{source}: {rows} soft-prompt vectors do not divide by {prompt_length}: give --prompt_length"
        )
    plain = saved.state if isinstance(saved, Shell) else {}
    known = {key for key in RDRecConfig.__dataclass_fields__ if key not in ("auto_map", "dtype", "torch_dtype")}
    settings = {
        key: value
        for key, value in plain.items()
        if key in known and isinstance(value, int | float | str | bool) and not key.startswith("_")
    }
    attention = tensors.get("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    query = tensors.get("encoder.block.0.layer.0.SelfAttention.q.weight")
    if attention is None or query is None:
        raise CheckpointError(f"{source}: has no T5 encoder")
    heads = attention.shape[1]
    feed_forward = next(
        (f for f in ("wi", "wi_0") if f"encoder.block.0.layer.1.DenseReluDense.{f}.weight" in tensors), None
    )
    if feed_forward is None:
        raise CheckpointError(f"{source}: has no T5 encoder")
    vocab_size, d_model = tensors[SHARED].shape
    settings |= {
        "vocab_size": vocab_size,
        "d_model": d_model,
        "num_heads": heads,
        "d_kv": query.shape[0] // heads,
        "d_ff": tensors[f"encoder.block.0.layer.1.DenseReluDense.{feed_forward}.weight"].shape[0],
        "relative_attention_num_buckets": attention.shape[0],
        "num_layers": _layers(tensors, "encoder"),
        "num_decoder_layers": _layers(tensors, "decoder"),
        "max_whole_words": tensors[WHOLE_WORDS].shape[0],
        "num_tasks": rows // prompt_length,
        "prompt_length": prompt_length,
        # The reference's padding counts and is attended to; its figures come out only so.
        "reference_padding": True,
    }
    if feed_forward == "wi_0":
        settings.setdefault("feed_forward_proj", "gated-gelu")
    return RDRecConfig(**settings)


def _layers(tensors: dict, side: str) -> int:
    return 1 + max((int(name.split(".")[2]) for name in tensors if name.startswith(f"{side}.block.")), default=-1)
