"""The sample as a dataset folder, and the two sets of rationales that ship with it.

    path = build_sample("sample_data")
    tables = load_tables_of("sample")               # built in data/sample where it is not there yet
    ceiling_ranks(world_from_info(tables.info), tables)     # what nothing can be expected to beat

`distilled` (the default): a small language model wrote them with distill.py, and the policy of the audit settled each
half. `planted`: they say what of the truth a review gives away, and their provenance says that no model wrote them;
beside them one sees what the teacher made of it.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.build import build_tables
from dataset_builder.files import existing_file
from dataset_builder.tables import INFO_FILE, Tables, load_tables, write_dataset
from rdrec.durable import whole_file
from rdrec.errors import DatasetError

from .texts import write_reviews
from .world import World, draw_purchases, make_shop


SAMPLE_DIR = "data/sample"
PLANTED_FILE = Path(__file__).with_name("rationales") / "planted.parquet"
DISTILLED_FILE = PLANTED_FILE.with_name("distilled.parquet")
FILES = {"distilled": DISTILLED_FILE, "planted": PLANTED_FILE}
TEACHER, PROMPT = "planted-truth", "planted"
# Raised when the generator's output changes, so that folders built by an older one are not taken for this one's.
GENERATOR = 2

RATIONALE_SCHEMA = pa.schema(
    [
        ("review_row", pa.int64()),
        ("user_preference", pa.string()),
        ("item_attributes", pa.string()),
        ("teacher", pa.string()),
        ("prompt", pa.string()),
    ]
)


def make_world(seed: int = 0, *, num_users: int = 400) -> World:
    """Make the sample's world; equal arguments give an equal world on every machine.

    Parameters
    ----------
    seed : int
        Seed of everything: items, tastes, purchases, dates, reviews.
    num_users : int
        The items are always 240, so below some 200 users a few items may fall out of the 5-core.
    """
    world = make_shop(seed, num_users)
    purchases = draw_purchases(world)
    write_reviews(world, purchases)
    return world


def world_from_info(info: dict[str, Any]) -> World:
    """Remake the world from a `build_info.json`; DatasetError if the dataset is not a sample of this generator."""
    source = info.get("source") or {}
    if source.get("kind") != "sample":
        raise DatasetError(f"dataset {info.get('domain')!r} is not the embedded sample: only that one has a ceiling")
    if source.get("generator") != GENERATOR:
        raise DatasetError("the sample was built by another version of the generator; build it again with --overwrite")
    world = make_world(source["world_seed"], num_users=source["num_users"])
    if world.reviews_sha256() != source["reviews_sha256"]:
        raise DatasetError("the generator no longer gives the reviews of this sample; build it again with --overwrite")
    return world


def build_sample(
    output_dir: str | Path,
    *,
    protocol: str = "clean",
    seed: int = 0,
    world_seed: int = 0,
    rationales: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Build the embedded sample as a dataset folder, or keep the one that is there.

    Parameters
    ----------
    output_dir : str or Path
        A folder that already holds this very sample is left as it is.
    protocol : str
        "clean" or "published".
    seed : int
        Seed of the build: ids, splits, candidates.
    world_seed : int
        Seed of the world. The rationales that ship are those of world 0.
    rationales : {"distilled", "planted"}, optional
        Default: distilled for world 0; another world has no teacher's, so its are planted on the spot.
    overwrite : bool
        Replace an earlier build that differs.

    Returns
    -------
    Path
        The folder.
    """
    world = make_world(world_seed)
    rationales = rationales or ("planted" if world_seed else "distilled")
    if rationales not in FILES or (rationales == "distilled" and world_seed):
        raise DatasetError(
            f"rationales {rationales!r}: world {world_seed} has " + ("planted" if world_seed else " or ".join(FILES))
        )
    source = {
        "kind": "sample",
        "generator": GENERATOR,
        "world_seed": world.seed,
        "num_users": world.num_users,
        "reviews_sha256": world.reviews_sha256(),
        "rationales": rationales,
    }
    if _is_same(Path(output_dir), {"protocol": protocol, "seed": seed, "source": source}):
        return Path(output_dir)
    with tempfile.TemporaryDirectory() as scratch:
        file = FILES[rationales]
        if world_seed:
            file = write_rationales(planted_rationales(world), world, Path(scratch) / file.name)
        elif _written_for(file) != source["reviews_sha256"]:
            raise DatasetError(
                f"{file.name}: written for other reviews than the generator gives; run "
                "`python -m rdrec.sample " + ("plant`" if rationales == "planted" else "export`, distill, adopt")
            )
        item_text = Path(scratch) / "item_text.txt"
        item_text.write_text(
            "".join(f"{raw} {name}\n" for raw, name in zip(world.item_ids, world.names, strict=True)), encoding="utf-8"
        )
        tables = build_tables(
            world.reviews,
            domain="sample",
            protocol=protocol,
            seed=seed,
            rationales=file,
            item_text=item_text,
            source=source,
            progress=False,
        )
    return write_dataset(tables, output_dir, overwrite=overwrite)


def _is_same(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder holds, undamaged, a sample with the wanted entries in its record."""
    if not (folder / INFO_FILE).is_file():
        return False
    try:
        info = load_tables(folder).info
    except DatasetError:
        return False
    # `source` may have gained entries in the build (the files read); only ours must agree.
    same_source = wanted["source"].items() <= (info.get("source") or {}).items()
    return same_source and (info["protocol"], info["seed"]) == (wanted["protocol"], wanted["seed"])


def planted_rationales(world: World) -> pa.Table:
    """The rationales of all reviews that support at least one half, as `planted.parquet` has them."""
    kept = [(row, *halves) for row, halves in enumerate(world.rationales) if any(halves)]
    columns = [list(column) for column in zip(*kept, strict=True)]
    return pa.table([*columns, [TEACHER] * len(kept), [PROMPT] * len(kept)], schema=RATIONALE_SCHEMA)


def write_rationales(table: pa.Table, world: World, path: Path) -> Path:
    """Write rationales of a world, whole or not at all, with the hash of the reviews they are for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = table.replace_schema_metadata({"reviews_sha256": world.reviews_sha256()})
    with whole_file(path) as work:
        pq.write_table(table, work, compression="zstd")
    return path


def _written_for(path: Path) -> str | None:
    """The hash of the reviews that a file of rationales was written for."""
    metadata = pq.read_schema(path).metadata or {}
    return metadata.get(b"reviews_sha256", b"").decode() or None


def adopt(path: str | Path, world: World) -> Path:
    """Ship what distill.py wrote for the reviews that `export_reviews` gave; DatasetError when it is for others."""
    table = pq.read_table(existing_file(path))
    if table["review_row"].to_pylist() != list(range(len(world.rows))):
        raise DatasetError(f"{path}: not one row a review of the sample; distil the file that `export` writes, whole")
    return write_rationales(table, world, DISTILLED_FILE)


def export_reviews(world: World, path: str | Path) -> Path:
    """Write the reviews as JSON lines, to distil rationales from."""
    lines = "".join(json.dumps(row) + "\n" for row in world.reviews())
    Path(path).write_text(lines, encoding="utf-8")
    return Path(path)


def load_tables_of(dataset: str, revision: str | None = None) -> Tables:
    """Read a built dataset; the name `sample` builds the embedded sample in `data/sample` if it is not there yet."""
    if dataset == "sample":
        info_file = Path(SAMPLE_DIR) / INFO_FILE
        # A sample of an older version is replaced; a user's own dataset in that place never is.
        outdated = info_file.is_file() and json.loads(info_file.read_text())["source"].get("kind") == "sample"
        dataset = str(build_sample(SAMPLE_DIR, overwrite=outdated))
    return load_tables(dataset, revision)
