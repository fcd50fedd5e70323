"""The files of a run, written whole or not at all.

OUTPUT_DIR/                  at the end: the best model, as `from_pretrained` reads it
OUTPUT_DIR/checkpoint-best/  while training: the best model so far
OUTPUT_DIR/checkpoint-last/  the state of accelerate, from which the run goes on exactly
OUTPUT_DIR/recipe.yaml, training_record.json, logs/
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path


BEST, LAST = "checkpoint-best", "checkpoint-last"
RECORD_FILE, RECIPE_FILE, STATE_FILE = "training_record.json", "recipe.yaml", "training_state.json"


def fsync_tree(path: Path) -> None:
    """Have everything under a folder (or one file) reach the disk."""
    for entry in [*path.rglob("*"), path] if path.is_dir() else [path]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder, then put it in the place of `target`."""
    work = target.with_name(f".{target.name}.writing")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write(work)
    put_in_place(work, target)


def put_in_place(work: Path, target: Path) -> None:
    """Give a folder that is written to its end the name of `target`; see `recover` for a kill between the renames."""
    old = target.with_name(f".{target.name}.replaced")
    fsync_tree(work)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    work.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def recover(target: Path) -> None:
    """Undo a `replace_folder` that was killed between its two renames: the old folder gets its name back."""
    old = target.with_name(f".{target.name}.replaced")
    if old.exists() and not target.exists():
        old.rename(target)


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file through a temporary name."""
    work = path.with_name(f".{path.name}.writing")
    work.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    fsync_tree(work)
    work.replace(path)


def promote_best(output_dir: Path) -> None:
    """Move the best model to the top of the run's folder; `config.json`, without which nothing loads, comes last."""
    best = output_dir / BEST
    if not best.is_dir():
        return
    (output_dir / "config.json").unlink(missing_ok=True)
    for path in sorted(best.iterdir(), key=lambda path: path.name == "config.json"):
        path.replace(output_dir / path.name)
    best.rmdir()


def holds_run(output_dir: Path) -> bool:
    return any((output_dir / name).exists() for name in (LAST, BEST, RECORD_FILE, "config.json"))


def prepare_output_dir(output_dir: Path, resume: str | None, overwrite: bool) -> Path | None:
    """Check the run's folder before anything is computed.

    Returns
    -------
    Path or None
        The checkpoint to go on from.

    Raises
    ------
    ValueError
        For a folder that holds another run, or a checkpoint to resume from that is not there.
    """
    if resume is not None:
        checkpoint = output_dir / LAST if resume == "last" else Path(resume)
        if checkpoint.resolve().parent != output_dir.resolve():
            # The best model so far and the record lie beside the checkpoint, so a run stays in its folder.
            raise ValueError(f"{checkpoint}: not of the run in {output_dir}; give --output_dir {checkpoint.parent}")
        recover(checkpoint)
        if not (checkpoint / STATE_FILE).is_file():
            raise ValueError(f"{checkpoint}: no checkpoint to resume from; leave out --resume_from_checkpoint to start")
        return checkpoint
    if holds_run(output_dir):
        if not overwrite:
            raise ValueError(
                f"{output_dir} holds a run: --resume_from_checkpoint last goes on with it, --overwrite_output_dir "
                "starts anew, --output_dir names another folder"
            )
        for name in (LAST, BEST, "logs"):
            shutil.rmtree(output_dir / name, ignore_errors=True)
        # An old model's figures must not stand beside the new one.
        for path in [output_dir / "config.json", output_dir / RECORD_FILE, *output_dir.glob("eval_*")]:
            path.unlink(missing_ok=True)
    output_dir.mkdir(parents=True, exist_ok=True)
    return None
