"""Reviews in, dataset out: the RDRec rationale dataset and its builder.

    python -m dataset_builder build --reviews reviews.json.gz --domain beauty --output data/beauty

    from . import build_tables, load_tables, write_dataset

Names are fetched on first use, so `import dataset_builder` costs nothing.
"""

from importlib import import_module
from typing import Any


_HOME = {
    "DatasetError": "rdrec.errors",
    "RDRecRationales": "dataset_builder.datasets_builder",
    "Tables": "dataset_builder.tables",
    "build_tables": "dataset_builder.build",
    "build_tables_from_reference": "dataset_builder.paper_import",
    "load_tables": "dataset_builder.tables",
    "write_dataset": "dataset_builder.tables",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
