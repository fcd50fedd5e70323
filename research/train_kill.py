"""Kill -9 at random moments of training: does the run that goes on end with the weights of one that was never killed?

    python -m research.train_kill --kills 20
    python -m research.train_kill --kills 20 --num_processes 2 --eval_steps 30

A short run on the embedded sample saves its state every few steps and validates between them, so that a kill falls into
a step, a save, a validation or the start. It is killed with its helpers, goes on with `--resume_from_checkpoint last`,
and is killed again; where nothing was saved yet it begins anew. When it ends, its weights, its tokenizer, its counts
and its evidence are compared with those of the whole run, byte by byte, and the next one begins, until --kills.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rdrec.checkpoints.run_folder import LAST


KEPT = ("model.safetensors", "tokenizer.json", "catalog.json", "catalog_transitions.npy", "catalog_evidence.npz")


def start(folder: Path, processes: int, flags: list[str]) -> subprocess.Popen:
    """Start or go on with the run in a folder, in a process group of its own."""
    train = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "--cpu"]
    train += ["--quiet", "train.py", "--config", "recipes/sample.yaml", "--output_dir", str(folder), *flags]
    going_on = (folder / LAST).is_dir()
    train += ["--resume_from_checkpoint", "last"] if going_on else ["--overwrite_output_dir"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        return subprocess.Popen(train, start_new_session=True, stdout=log, stderr=log, env=environment)


def finish(run: subprocess.Popen, folder: Path) -> None:
    """Let a run end."""
    if run.wait():
        raise SystemExit(f"the run failed: {folder.with_suffix('.log').read_text(encoding='utf-8')[-500:]}")


def kept(folder: Path) -> dict[str, str]:
    """Hashes of what a run leaves behind."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--save_steps", type=int, default=3)
    parser.add_argument("--eval_steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    flags = ["--max_train_steps", str(given.steps), "--save_steps", str(given.save_steps)]
    flags += ["--eval_steps", str(given.eval_steps), "--max_eval_samples", "40", "--seed", "1"]
    with tempfile.TemporaryDirectory(prefix="rdrec-kill-") as work:
        whole, cut = Path(work) / "whole", Path(work) / "cut"
        began = time.monotonic()
        finish(start(whole, given.num_processes, flags), whole)
        seconds = time.monotonic() - began
        done = runs = 0
        while done < given.kills:
            run = start(cut, given.num_processes, flags)
            try:
                # Longer than a start takes, or nothing would ever be trained, and shorter than a whole run.
                run.wait(timeout=rng.uniform(0.3, 0.9) * seconds)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
                done += 1
                print(f"kill {done}: a state was saved: {(cut / LAST).is_dir()}", flush=True)
                if done < given.kills:
                    continue
                run = start(cut, given.num_processes, flags)
            finish(run, cut)
            runs += 1
            if kept(cut) != kept(whole):
                raise SystemExit(f"after {done} kills the run differs: {kept(whole)} {kept(cut)}")
            shutil.rmtree(cut)
    print(
        f"{done} kills, {given.num_processes} process(es): {runs} runs left what the whole one left, byte by byte:",
        *KEPT,
    )


if __name__ == "__main__":
    main()
