"""Kill -9 at random moments: does what is begun again end with the bytes of what was never killed?

    python -m research.kills train --kills 20
    python -m research.kills train --kills 20 --num_processes 2 --flags "--eval_steps 30"
    python -m research.kills recommend --kills 20 --flags "--model runs/mine --dataset data/mine --users_a_part 512"
    python -m research.kills build --kills 20 --flags "--reviews august.csv --extend data/july"

Each command is run whole once. Then it is killed, with its helpers, at random moments (after three to nine tenths of
the time of the whole run), begun again and killed again; a training goes on with `--resume_from_checkpoint last`, or
anew where nothing was saved yet. Whenever one comes to its end, what it left is compared with what the whole one left,
byte by byte, and it begins from nothing, until --kills.

`train` is a short run on the embedded sample that saves its state every few steps and validates between them, so that a
kill falls into a step, a save, a validation or the start. `recommend` and `build` need flags that say what to work on.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from rdrec.checkpoints.run_folder import LAST


KEPT_OF_A_MODEL = {
    "model.safetensors",
    "tokenizer.json",
    "catalog.json",
    "catalog_transitions.npy",
    "catalog_evidence.npz",
}
ANSWERS = "recommendations.parquet"
TRAINING = (
    "--config recipes/sample.yaml --max_train_steps 60 --save_steps 3 --eval_steps 10 --max_eval_samples 40 --seed 1"
)


def command(what: str, folder: Path, processes: int, flags: list[str]) -> list[str]:
    """The command that begins `what` in a folder, or goes on with it."""
    launch = [sys.executable]
    if processes > 1:  # `accelerate launch` would ask for MPI on a CPU
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    if what == "train":
        going_on = ["--resume_from_checkpoint", "last"] if (folder / LAST).is_dir() else ["--overwrite_output_dir"]
        return [*launch, "train.py", *shlex.split(TRAINING), "--output_dir", str(folder), *going_on, *flags]
    if what == "recommend":
        return [*launch, "recommend.py", "--output", str(folder / ANSWERS), *flags]
    return [sys.executable, "-m", "dataset_builder", "build", "--output", str(folder), "--overwrite", *flags]


def start(what: str, folder: Path, processes: int, flags: list[str]) -> subprocess.Popen:
    """Start it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        asked = command(what, folder, processes, flags)
        return subprocess.Popen(asked, stdout=log, stderr=log, env=environment)


def kill(run: subprocess.Popen) -> None:
    """Kill it and all that it started, whose process groups are their own where torch starts them."""
    processes = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes)
    run.wait()


def finish(run: subprocess.Popen, folder: Path) -> None:
    """Let it end."""
    if run.wait():
        raise SystemExit(f"it failed: {folder.with_suffix('.log').read_text(encoding='utf-8')[-500:]}")


def left(what: str, folder: Path) -> dict[str, str]:
    """Hashes of the files that it left."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if what == "recommend":
        files = [folder / ANSWERS]  # killed before it is removed, the folder of parts may stay
    elif what == "train":
        files = [path for path in files if path.parent == folder and path.name in KEPT_OF_A_MODEL]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "recommend", "build"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--num_processes", type=int, default=1, help="of train and recommend")
    parser.add_argument("--flags", default="", help="further flags of the command, in one word")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    asked = given.num_processes, shlex.split(given.flags)
    with tempfile.TemporaryDirectory(prefix="rdrec-kill-") as work:
        whole, cut = Path(work) / "whole", Path(work) / "cut"
        began = time.monotonic()
        finish(start(given.what, whole, *asked), whole)
        seconds = time.monotonic() - began
        expected = left(given.what, whole)
        done = ends = 0
        while done < given.kills:
            run = start(given.what, cut, *asked)
            try:
                # Longer than a start takes, or nothing would ever be done, and shorter than a whole run.
                run.wait(timeout=rng.uniform(0.3, 0.9) * seconds)
            except subprocess.TimeoutExpired:
                kill(run)
                done += 1
                print(f"kill {done} after which there is {sorted(path.name for path in cut.glob('*'))}", flush=True)
                whole_already = (
                    cut / ANSWERS
                ).is_file()  # its name is the last thing it gets; begun again, it is refused
                if done < given.kills and not whole_already:
                    continue
                run = start(given.what, cut, *asked) if not whole_already else None
            if run:
                finish(run, cut)
            ends += 1
            if left(given.what, cut) != expected:
                raise SystemExit(f"after {done} kills it differs: {expected} {left(given.what, cut)}")
            shutil.rmtree(cut)
    print(f"{done} kills, {ends} ends, a whole run takes {seconds:.0f} s: the same bytes each time:", *expected)


if __name__ == "__main__":
    main()
