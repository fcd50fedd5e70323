"""The files of a run (`durable.py` writes them whole or not at all).

OUTPUT_DIR/                  at the end: the best model, as `from_pretrained` reads it
OUTPUT_DIR/checkpoint-best/  while training: the best model so far
OUTPUT_DIR/checkpoint-last/  the state of accelerate, from which the run goes on exactly
OUTPUT_DIR/recipe.yaml, training_record.json, logs/
"""

import shutil
from pathlib import Path

from rdrec.durable import recover
from rdrec.errors import UserError

from .files import ADAPTER_CONFIG_FILE, CONFIG_FILE, RECORD_FILE, TOKENIZER_PATTERNS, WEIGHTS_PATTERNS


BEST, LAST = "checkpoint-best", "checkpoint-last"
STATE_FILE = "training_state.json"


def promote_best(output_dir: Path) -> None:
    """Move the best model to the top of the run's folder; `config.json`, without which nothing loads, comes last."""
    best = output_dir / BEST
    if not best.is_dir():
        return
    (output_dir / CONFIG_FILE).unlink(missing_ok=True)
    for path in sorted(best.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        path.replace(output_dir / path.name)
    best.rmdir()


def holds_run(output_dir: Path) -> bool:
    return any((output_dir / name).exists() for name in (LAST, BEST, RECORD_FILE, CONFIG_FILE))


def prepare_output_dir(output_dir: Path, resume: str | None, overwrite: bool, base: str | None = None) -> Path | None:
    """Check the run's folder before anything is computed; `base` is the checkpoint that the run starts from.

    Returns
    -------
    Path or None
        The checkpoint to go on from.

    Raises
    ------
    UserError
        For a folder that holds another run, or a checkpoint to resume from that is not there.
    """
    if resume is not None:
        checkpoint = output_dir / LAST if resume == "last" else Path(resume)
        recover(checkpoint)
        if resume != "last" and not checkpoint.exists():
            raise UserError(f"{checkpoint}: no such checkpoint; `last` is the newest of the run in {output_dir}")
        if checkpoint.resolve().parent != output_dir.resolve():
            # The best model so far and the record lie beside the checkpoint, so a run stays in its folder.
            raise UserError(f"{checkpoint}: not of the run in {output_dir}; give --output_dir {checkpoint.parent}")
        if not (checkpoint / STATE_FILE).is_file():
            raise UserError(f"{checkpoint}: no checkpoint to resume from; leave out --resume_from_checkpoint to start")
        return checkpoint
    if holds_run(output_dir):
        if not overwrite:
            raise UserError(
                f"{output_dir} holds a run: --resume_from_checkpoint last goes on with it, --overwrite_output_dir "
                "starts anew, --output_dir names another folder"
            )
        if base is not None and Path(base).resolve() == output_dir.resolve():
            raise UserError(f"{output_dir} holds the model to start from: give another --output_dir")
        for name in (LAST, BEST, "logs"):
            shutil.rmtree(output_dir / name, ignore_errors=True)
        # An old model's figures must not stand beside the new one.
        old = (CONFIG_FILE, RECORD_FILE, "eval_*", *WEIGHTS_PATTERNS, ADAPTER_CONFIG_FILE, *TOKENIZER_PATTERNS)
        for path in {path for name in old for path in output_dir.glob(name)}:
            path.unlink(missing_ok=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    return None
