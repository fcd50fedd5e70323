"""A live pickle: whoever unpickles it makes a folder. A test plants it where something is read, and looks for the
folder afterwards."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings


# The same few examples each time. No limits in seconds of the wall: on a busy machine they measure others' work; where
# a result must come soon, the test counts the process's own.
few = settings(
    derandomize=True,
    database=None,
    max_examples=25,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


class Mine:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)

    def went_off(self) -> bool:
        return self.folder.exists()

    def plant(self, path: Path) -> Path:
        """Write it in the way in which a file of this name is read."""
        hostile = np.array([self, self], dtype=object)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            if path.suffix == ".npy":
                np.save(file, hostile, allow_pickle=True)
            elif path.suffix == ".npz":
                np.savez(file, rows=hostile, content=hostile)
            elif path.suffix in (".bin", ".pt", ".pkl", ".pth"):
                import torch

                torch.save({"state": self}, file)
            else:
                pickle.dump(self, file)
        return path


@pytest.fixture
def mine(tmp_path) -> Mine:
    """Proven to be live: loaded once, it makes its folder."""
    live = Mine(tmp_path / "went off")
    pickle.loads(pickle.dumps(live))
    assert live.went_off()
    live.folder.rmdir()
    return live
