"""The built dataset: its four tables, how they are written as a dataset repo, and how they are read back.

    tables = build_tables("reviews.json.gz", domain="beauty")     # build.py
    write_dataset(tables, "data/beauty")
    tables = load_tables("data/beauty")                           # or load_tables("rdrec/beauty-rationales")

On disk: `DIR/{rationales,interactions,candidates,catalog}/{split}.parquet`, `DIR/README.md` (whose YAML makes
`datasets.load_dataset(DIR, "interactions")` work) and `DIR/build_info.json` (what was built, from what, and what was
skipped). A split without rows has no file; in memory it is a table of no rows, so readers need no special case.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdrec.durable import put_in_place, recover
from rdrec.errors import DatasetError


FORMAT = 2
INFO_FILE = "build_info.json"
_HASHED_TEXTS = 100_000  # in memory at once

SCHEMAS: dict[str, pa.Schema] = {
    "rationales": pa.schema(
        [
            ("user", pa.int64()),
            ("item", pa.int64()),
            ("explanation", pa.string()),
            ("feature", pa.string()),
            ("user_preference", pa.string()),
            ("item_attributes", pa.string()),
            (
                "provenance",
                pa.struct(
                    [
                        ("teacher", pa.string()),
                        ("prompt", pa.string()),
                        ("user_preference_grounding", pa.float32()),
                        ("item_attributes_grounding", pa.float32()),
                        ("user_preference_choice", pa.string()),  # of the audit's policy; null where none was applied
                        ("item_attributes_choice", pa.string()),
                    ]
                ),
            ),
        ]
    ),
    "interactions": pa.schema(
        [("user", pa.int64()), ("items", pa.list_(pa.int64())), ("timestamps", pa.list_(pa.int64()))]
    ),
    "candidates": pa.schema([("user", pa.int64()), ("positive", pa.int64()), ("negatives", pa.list_(pa.int64()))]),
    "catalog": pa.schema([("kind", pa.string()), ("id", pa.int64()), ("raw_id", pa.string()), ("text", pa.string())]),
}

SPLITS: dict[str, tuple[str, ...]] = {
    "rationales": ("train", "validation", "test"),
    "interactions": ("train",),
    "candidates": ("validation", "test"),
    "catalog": ("train",),
}


@dataclass
class Tables:
    """A built dataset in memory.

    Attributes
    ----------
    rationales : dict of str to pa.Table
        Splits train, validation, test (all three keys always, maybe of no rows), by user, then oldest first.
    interactions : pa.Table
        One row a user, ordered by user id; `items` oldest first: the last is test, the one before validation.
    candidates : dict of str to pa.Table
        Splits validation and test, one row a user, ordered by user id.
    catalog : pa.Table
        Users, then items, each by id; ids are dense from 1.
    info : dict
        What `build_info.json` holds: format, domain, protocol, seed, source, min_core, counts, skipped, fingerprint;
        `notes` too, on how the input was understood, where there are any.
    """

    rationales: dict[str, pa.Table]
    interactions: pa.Table
    candidates: dict[str, pa.Table]
    catalog: pa.Table
    info: dict[str, Any]

    def parts(self) -> Iterator[tuple[str, str, pa.Table]]:
        """Yield (config, split, table) in one fixed order, empty tables included."""
        for config, splits in SPLITS.items():
            held = getattr(self, config)
            for split in splits:
                yield config, split, held[split] if isinstance(held, dict) else held


def fingerprint(tables: Tables) -> str:
    """Hex SHA-256 over the content of all tables: equal content, equal value, however it is chunked or stored."""
    digest = hashlib.sha256()
    for config, split, table in tables.parts():
        digest.update(f"{config}/{split}/{table.num_rows}\n".encode())
        for name, column in zip(table.column_names, table.columns, strict=True):
            digest.update(f"{name}:{column.type}\n".encode())
            _hash_array(digest, column.combine_chunks())
    return digest.hexdigest()


def _hash_array(digest: Any, array: pa.Array) -> None:
    # Arrow leaves what lies under a null, and the bits of padding, undefined: only defined values may enter the hash.
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of a column without chunks
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=array.type)
    digest.update(array.is_valid().to_numpy(zero_copy_only=False).data)
    if array.null_count:
        array = array.drop_null()
    if pa.types.is_struct(array.type):
        for i in range(array.type.num_fields):
            _hash_array(digest, pc.struct_field(array, [i]))
    elif pa.types.is_list(array.type):
        digest.update(pc.list_value_length(array).to_numpy(zero_copy_only=False).data)
        _hash_array(digest, array.flatten())
    elif pa.types.is_string(array.type):
        digest.update(pc.binary_length(array).to_numpy(zero_copy_only=False).data)
        for start in range(0, len(array), _HASHED_TEXTS):
            digest.update("".join(array.slice(start, _HASHED_TEXTS).to_pylist()).encode())
    else:
        digest.update(array.to_numpy(zero_copy_only=False).data)


def write_dataset(tables: Tables, output_dir: str | Path, *, overwrite: bool = False) -> Path:
    """Write the dataset folder, whole or not at all.

    Everything goes into a temporary folder beside the target, is flushed to disk, and takes its name in one rename.
    Equal tables give equal bytes.

    Parameters
    ----------
    tables : Tables
    output_dir : str or Path
        A folder that does not exist or is empty; with `overwrite`, also one that an earlier build wrote.
    overwrite : bool
        Replace an earlier build. A folder without `build_info.json` is never replaced: it is not ours.

    Returns
    -------
    Path
        The folder written.
    """
    target = Path(output_dir)
    recover(target)
    if target.exists():
        if not target.is_dir():
            raise DatasetError(f"{target}: is a file; name a folder")
        if any(target.iterdir()):
            if not (target / INFO_FILE).is_file():
                raise DatasetError(f"{target}: not empty and not a built dataset; name another folder")
            if not overwrite:
                raise DatasetError(f"{target}: already holds a built dataset; add --overwrite or name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # The process's number: two may build the same folder at once, such as the sample.
    work = target.parent / f".{target.name}.writing-{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
        for config, split, table in tables.parts():
            if table.num_rows:
                (work / config).mkdir(exist_ok=True)
                pq.write_table(table, work / config / f"{split}.parquet", compression="zstd")
        (work / INFO_FILE).write_text(json.dumps(tables.info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (work / "README.md").write_text(_card(tables), encoding="utf-8")
        put_in_place(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def card_configs(tables: Tables) -> list[dict[str, Any]]:
    """The `configs:` entry of the dataset card: every config and split that has rows; `rationales` is the default.

    `datasets` names its cache after what the card says of a config and after the paths of its files, not after what is
    in them: without the fingerprint, a folder built anew would be answered with the tables of the build before.
    """
    description = f"fingerprint {tables.info['fingerprint']}"
    configs: dict[str, dict[str, Any]] = {}
    for config, split, table in tables.parts():
        if table.num_rows:
            entry = configs.setdefault(config, {"config_name": config, "description": description, "data_files": []})
            entry["data_files"].append({"split": split, "path": f"{config}/{split}.parquet"})
    first = "rationales" if "rationales" in configs else "interactions"
    configs[first]["default"] = True
    return list(configs.values())


def _card(tables: Tables) -> str:
    info, counts = tables.info, tables.info["counts"]
    lines = ["---", "configs:"]
    for entry in card_configs(tables):
        lines += [f"- config_name: {entry['config_name']}", f"  description: {entry['description']}"]
        if entry.get("default"):
            lines.append("  default: true")
        lines.append("  data_files:")
        for part in entry["data_files"]:
            lines += [f"  - split: {part['split']}", f"    path: {part['path']}"]
    rationales = sum(counts["rationales"].values())
    lines += [
        "---",
        f"# {info['domain']}: interactions, candidates and rationales for RDRec",
        "",
        f"{counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions; "
        f"{rationales:,} explanation rows, {sum(counts['with_rationale'].values()):,} of them with a rationale.",
        "",
        f"Protocol `{info['protocol']}`, seed {info['seed']}. The whole record is in `{INFO_FILE}`.",
        "",
    ]
    return "\n".join(lines)


def load_tables(path_or_repo_id: str | Path, revision: str | None = None) -> Tables:
    """Read a built dataset from a local folder or from the Hub.

    Parameters
    ----------
    path_or_repo_id : str or Path
        A folder that `write_dataset` wrote, or the id of a dataset repo that holds such a folder.
    revision : str, optional
        Branch, tag or commit of the repo.

    Raises
    ------
    DatasetError
        Neither a folder nor a repo that can be reached; no `build_info.json`; another format; a missing table or
        column; tables of another fingerprint than `build_info.json` has.
    """
    folder = Path(path_or_repo_id)
    if folder.is_dir():
        if not (folder / INFO_FILE).is_file():
            raise DatasetError(
                f"{folder}: no {INFO_FILE}, so not a built dataset; run `python -m dataset_builder build`"
            )
        info = _read_info(folder / INFO_FILE, str(folder))

        def read(config: str, split: str) -> pa.Table:
            path = folder / config / f"{split}.parquet"
            if not path.is_file():
                raise DatasetError(f"{path}: missing from the dataset; build it again with --overwrite")
            try:
                return pq.read_table(path, partitioning=None)
            except pa.ArrowInvalid as error:
                raise DatasetError(f"{path}: not a readable Parquet file; build it again with --overwrite") from error
    else:
        repo_id = str(path_or_repo_id)
        info = _read_info(_download_info(repo_id, revision), repo_id)

        def read(config: str, split: str) -> pa.Table:
            from datasets import load_dataset

            return load_dataset(repo_id, config, split=split, revision=revision).with_format("arrow")[:]

    held: dict[str, dict[str, pa.Table]] = {}
    for config, splits in SPLITS.items():
        for split in splits:
            empty = config == "rationales" and not info["counts"]["rationales"][split]
            table = SCHEMAS[config].empty_table() if empty else read(config, split)
            held.setdefault(config, {})[split] = _checked(table, config, f"{path_or_repo_id} {config}/{split}")
    tables = Tables(
        rationales=held["rationales"],
        interactions=held["interactions"]["train"],
        candidates=held["candidates"],
        catalog=held["catalog"]["train"],
        info=info,
    )
    if fingerprint(tables) != info.get("fingerprint"):
        raise DatasetError(
            f"{path_or_repo_id}: its tables were changed after they were built (their fingerprint is not that of "
            f"{INFO_FILE}); build or download it again"
        )
    return tables


def _download_info(repo_id: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return hf_hub_download(repo_id, INFO_FILE, repo_type="dataset", revision=revision)
    except HFValidationError as error:
        raise DatasetError(f"{repo_id}: no such folder, and not the id of a dataset repo; check the path") from error
    except LocalEntryNotFoundError as error:
        raise DatasetError(f"{repo_id}: no such folder, and the Hub cannot be reached; check the path") from error
    except EntryNotFoundError as error:
        raise DatasetError(f"{repo_id}: the repo has no {INFO_FILE}, so it is not a built dataset") from error
    except OSError as error:  # no such repo or revision, no access, no network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatasetError(f"{repo_id}: no such folder, and no dataset repo of that id opens ({reason})") from error


def _read_info(path: str | Path, where: str) -> dict[str, Any]:
    try:
        info = json.loads(Path(path).read_text(encoding="utf-8"))
        found = info["format"]
        if found == FORMAT:
            [int(info["counts"]["rationales"][split]) for split in SPLITS["rationales"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(f"{where}: {INFO_FILE} is damaged ({error}); build the dataset again") from error
    if found != FORMAT:
        raise DatasetError(f"{where}: format {found}, this version reads {FORMAT}; build the dataset again")
    return info


def _checked(table: pa.Table, config: str, where: str) -> pa.Table:
    schema = SCHEMAS[config]
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DatasetError(f"{where}: no column {missing[0]!r}; build the dataset again")
    try:
        return table.select(schema.names).cast(schema).replace_schema_metadata(None)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{where}: a column has the wrong type ({reason}); build the dataset again") from error
