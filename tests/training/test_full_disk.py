"""A disk that fills up: one line that names what stands, and with some space the work goes on from there."""

import subprocess

import pytest

from rdrec.errors import UserError
from rdrec.training.loop import train


@pytest.fixture
def disk(tmp_path):
    """A disk in memory; `disk(kilobytes)` gives it that size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no small disk to fill here: {error}")
    if done.returncode:
        pytest.skip(f"no small disk to fill here: {done.stderr.strip()}")

    def resize(kilobytes):
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)
        return folder

    yield resize
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_training_names_the_last_good_state_and_goes_on(small_recipe, tmp_path, disk):
    changes = {"save_steps": 1, "eval_steps": 100}
    whole = train(small_recipe(**changes))
    state = sum(path.stat().st_size for path in (tmp_path / "run" / "checkpoint-last").rglob("*")) // 1024
    output = str(disk(state * 3 // 2) / "run")
    with pytest.raises(UserError, match="disk is full at step 2; the state of step 1 is whole: free some space, then"):
        train(small_recipe(output_dir=output, **changes))
    disk(state * 20)
    record = train(small_recipe(output_dir=output, resume_from_checkpoint="last", **changes))
    assert record.steps == whole.steps
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "run", tmp_path / "disk" / "run")]
    assert weights[0] == weights[1]


def test_a_disk_that_is_full_from_the_beginning(small_recipe, disk):
    with pytest.raises(UserError, match="disk is full at step 1; nothing was saved yet: free some space and begin"):
        train(small_recipe(output_dir=str(disk(64) / "run"), save_steps=1))
