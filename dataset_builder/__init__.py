"""Reviews in, dataset out: the RDRec rationale dataset and its builder.

    python -m dataset_builder build --reviews reviews.json.gz --domain beauty --output data/beauty

    from dataset_builder import build_tables, load_tables, write_dataset

Names are fetched on first use, so `import dataset_builder` costs nothing.
"""

from importlib import import_module
from typing import Any


_HOME = {
    "DatasetError": "errors",
    "RDRecRationales": "builder",
    "Tables": "tables",
    "build_tables": "pipeline",
    "build_tables_from_reference": "reference",
    "load_tables": "tables",
    "write_dataset": "tables",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
