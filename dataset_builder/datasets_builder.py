"""The builder as a `datasets.GeneratorBasedBuilder`: one config per domain, one table per build.

    builder = RDRecRationales("musical_instruments", reviews="reviews.csv.zip", table="interactions")
    builder.download_and_prepare()
    dataset = builder.as_dataset()

It gives the same tables as `load_dataset(FOLDER, TABLE)` on a folder that `write_dataset` wrote. datasets 5 runs no
loading scripts, so the class is imported and called, as above.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa

from rdrec.errors import DatasetError

from .build import build_tables
from .files import sha256_of
from .paper_import import build_tables_from_reference
from .tables import SCHEMAS, Tables


_PUBLIC = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_{}_5.json.gz"
DOMAINS = {
    "beauty": "Beauty",
    "sports": "Sports_and_Outdoors",
    "toys": "Toys_and_Games",
    "musical_instruments": "Musical_Instruments",
}


@dataclass
class RDRecRationalesConfig(datasets.BuilderConfig):
    """What to build. `name` is the domain; the rest is as in `build_tables`.

    Attributes
    ----------
    version : datasets.Version
        Of the building rules: raise it when they change, so that no cached table of the old rules is served.
    table : {"rationales", "interactions", "candidates", "catalog"}
    reviews : str, optional
        Path or URL of a reviews file; a named domain defaults to its public 2014 5-core file.
    reference : str, optional
        Folder of the paper's files, in place of reviews (it wins over a domain's default file).
    rationales : str, optional
        Path or URL of distilled rationales.
    item_text, items : str, optional
        Path or URL of texts for the catalog, or of items with their titles and metadata.
    """

    version: datasets.Version = datasets.Version("1.2.0")
    table: str = "rationales"
    reviews: str | None = None
    reference: str | None = None
    rationales: str | None = None
    item_text: str | None = None
    items: str | None = None
    columns: dict[str, str] | None = None
    item_columns: dict[str, str] | None = None
    min_rating: float | None = None
    keep_repeats: bool = False
    teacher: str = "unknown"
    prompt: str = "unknown"
    protocol: str = "clean"
    seed: int = 0
    min_core: int = 5
    num_negatives: int = 99

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name of the cache folder: depends on every field and on the content of every local input.

        The library's own id leaves out defaults and knows a file by its path only, so an edited file would be served
        stale.
        """
        digest = hashlib.sha256(repr(sorted((k, repr(v)) for k, v in asdict(self).items())).encode())
        for field in ("reviews", "reference", "rationales", "item_text", "items"):
            given = getattr(self, field)
            if given and os.path.exists(given):
                path = Path(given)
                for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
                    digest.update(f"{field} {file.name} {sha256_of(file)}\n".encode())
        return f"{self.name}-{self.table}-{digest.hexdigest()[:16]}"


class RDRecRationales(datasets.GeneratorBasedBuilder):
    """Interactions, candidates, catalog and rationales of one domain; `table` says which of the four."""

    BUILDER_CONFIG_CLASS = RDRecRationalesConfig
    BUILDER_CONFIGS = [
        *(RDRecRationalesConfig(name=name, reviews=_PUBLIC.format(category)) for name, category in DOMAINS.items()),
        RDRecRationalesConfig(name="custom"),
    ]

    def _info(self) -> datasets.DatasetInfo:
        if self.config.table not in SCHEMAS:
            raise DatasetError(f"table {self.config.table!r} is unknown; choose one of {', '.join(SCHEMAS)}")
        features = datasets.Features.from_arrow_schema(SCHEMAS[self.config.table])
        return datasets.DatasetInfo(features=features)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        tables = self._build(dl_manager)
        parts = [(split, table) for config, split, table in tables.parts() if config == self.config.table]
        if not any(table.num_rows for _, table in parts):
            raise DatasetError(f"{self.config.name}: no {self.config.table}; its input has no review texts")
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"table": table}) for split, table in parts if table.num_rows
        ]

    def _build(self, dl_manager: datasets.DownloadManager) -> Tables:
        config = self.config
        if config.reference:
            given = [name for name in ("reviews", "rationales", "item_text", "items") if getattr(config, name)]
            if given and config.name == "custom":
                raise DatasetError(
                    f"reference and {given[0]} are both given; the reference folder brings its own files"
                )
            return build_tables_from_reference(
                config.reference,
                domain=config.name,
                protocol=config.protocol,
                seed=config.seed,
                num_negatives=config.num_negatives,
            )
        if not config.reviews:
            raise DatasetError(f"config {config.name!r} has no input; give reviews=FILE or reference=FOLDER")
        inputs = {name: getattr(config, name) for name in ("reviews", "rationales", "item_text", "items")}
        files = dl_manager.download({name: given for name, given in inputs.items() if given})
        return build_tables(
            files["reviews"],
            domain=config.name,
            protocol=config.protocol,
            min_core=config.min_core,
            seed=config.seed,
            num_negatives=config.num_negatives,
            rationales=files.get("rationales"),
            teacher=config.teacher,
            prompt=config.prompt,
            item_text=files.get("item_text"),
            items=files.get("items"),
            columns=config.columns,
            item_columns=config.item_columns,
            min_rating=config.min_rating,
            keep_repeats=config.keep_repeats,
        )

    def _generate_examples(self, table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
        for start in range(0, table.num_rows, 1000):
            for offset, row in enumerate(table.slice(start, 1000).to_pylist()):
                yield start + offset, row
