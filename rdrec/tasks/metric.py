"""What the metrics of `metrics/` compute, wherever caches may be written.

compute("ranking", predictions=[[3, 1]], references=[1], k=[1, 5])
"""

import functools
import importlib.util
import tempfile
from typing import Any

from rdrec.places import HOME


def compute(name: str, **given: Any) -> dict[str, float]:
    """What `evaluate.load("metrics/NAME").compute(...)` gives.

    `evaluate.load` would first copy the metric into the cache of Hugging Face's libraries, and where that cannot be
    written, an evaluation would end after all its work. So the file is run where it lies, and what the metric writes on
    the way goes into a temporary folder.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _metric(name)(cache_dir=scratch).compute(**given)


@functools.cache
def _metric(name: str) -> type:
    """The class of the metric in `metrics/NAME`, whose file is run once."""
    spec = importlib.util.spec_from_file_location(f"rdrec_metric_{name}", HOME / "metrics" / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "".join(word.capitalize() for word in name.split("_")))
