"""What the tests of whole runs share: a recipe of a few small steps."""

import pytest

from rdrec.training.recipe import Recipe
from tests.conftest import TINY_MODEL


@pytest.fixture
def small_recipe(sample_dir, tmp_path):
    """Make a recipe of a few small steps; keyword arguments change it."""

    def make(**changes):
        settings = {
            "dataset": str(sample_dir),
            "output_dir": str(tmp_path / "run"),
            "model_config": TINY_MODEL,
            "train_batch_size": 12,
            "max_train_steps": 6,
            "max_eval_samples": 8,
            "logging_steps": 2,
            "report_to": "none",
        }
        return Recipe(**{**settings, **changes})

    return make
