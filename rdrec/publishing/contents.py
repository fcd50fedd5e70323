"""What goes into each repo: path in the repo to a local file, or to bytes where a file is made for the push.

    files = model_files(Path("runs/beauty"), dataset_id="rdrec/beauty-rationales")

Only files of a known kind are taken, so checkpoints to resume from, logs, and answers with review texts stay behind.
Absolute paths of this machine are cut down to their last part.
"""

import fnmatch
import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dataset_builder.tables import INFO_FILE, SPLITS, Tables, load_tables
from dataset_builder.time_split import is_time_split
from modeling_rdrec import configuration_rdrec, pipeline_rdrec
from rdrec.checkpoints.files import (
    ADAPTER_CONFIG_FILE,
    CONFIG_FILE,
    CONVERSION_FILE,
    GENERATION_CONFIG_FILE,
    RECIPE_FILE,
    RECORD_FILE,
    RESULTS_FILES,
    TOKENIZER_PATTERNS,
    WEIGHTS_FILE,
    WEIGHTS_PATTERNS,
)
from rdrec.checkpoints.records import ConversionRecord, EvaluationResults, TrainingRecord, read_json
from rdrec.places import HOME

from .hub import Files, PublishError


METRICS_DIR, SPACE_DIR = HOME / "metrics", HOME / "space"
CODE_DIR = Path(configuration_rdrec.__file__).parent
# What may tell which dataset a checkpoint was trained on, the surest first.
RECORDS = {
    RECORD_FILE: TrainingRecord,
    **dict.fromkeys(RESULTS_FILES.values(), EvaluationResults),
    CONVERSION_FILE: ConversionRecord,
}
PATH_KEYS = ("dataset", "output_dir", "model_name_or_path")
SPACE_KINDS = {".py", ".txt", ".html", ".css", ".js"}
# What the Space needs of the repos that it reads.
SPACE_READS = {
    "model": {CONFIG_FILE, "catalog.json"},
    "dataset": {"catalog/train.parquet", "interactions/train.parquet"},
}


class Base(NamedTuple):
    """The checkpoint under adapters."""

    repo_id: str
    revision: str | None


def base_of(folder: Path) -> Base | None:
    """What adapters lie over; None for a checkpoint with weights of its own.

    Raises
    ------
    PublishError
        Adapters over a folder of this machine, which nobody else could load.
    """
    if not (folder / ADAPTER_CONFIG_FILE).is_file():
        return None
    adapter = read_json(folder / ADAPTER_CONFIG_FILE)
    name = adapter.get("base_model_name_or_path")
    if not isinstance(name, str) or not is_hub_name(name):
        raise PublishError(
            f"--model {folder}: adapters over a folder of this machine ({name}): push that checkpoint first, and "
            "train with its repo id as model_name_or_path"
        )
    return Base(name, adapter.get("revision"))


def model_files(folder: Path, dataset_id: str | None = None) -> Files:
    """Files of a model repo, without its card.

    Parameters
    ----------
    folder : Path
        A run's folder, or any checkpoint saved by `save_pretrained`.
    dataset_id : str, optional
        The dataset on the Hub that the checkpoint was trained on: it takes the local path's place in the recipe.

    Raises
    ------
    PublishError
        No checkpoint there, or nothing measured that a card could be made of.
    """
    if not folder.is_dir():
        raise PublishError(f"--model {folder}: no such folder")
    base, has_config = base_of(folder), (folder / CONFIG_FILE).is_file()
    if not has_config and base is None:
        raise PublishError(
            f"--model {folder}: no {CONFIG_FILE}, so no finished checkpoint: train to the end, or convert"
        )
    files: Files = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and any(fnmatch.fnmatch(path.name, pattern) for pattern in (*WEIGHTS_PATTERNS, *TOKENIZER_PATTERNS))
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise PublishError(f"--model {folder}: no {WEIGHTS_FILE}; pickled weights are not pushed: save it again")
    for name in (GENERATION_CONFIG_FILE, *RESULTS_FILES.values(), CONVERSION_FILE):
        if (folder / name).is_file():
            files[name] = folder / name
    # The code that eval.py measured with, not what lay beside the weights when they were saved.
    files |= {path.name: path for path in sorted(CODE_DIR.glob("*.py")) if path.name != "__init__.py"}
    if base is not None:
        files[ADAPTER_CONFIG_FILE] = folder / ADAPTER_CONFIG_FILE
        del files["handler.py"]  # it serves a whole checkpoint
    else:
        code = {"auto_map": configuration_rdrec.AUTO_MAP, "custom_pipelines": pipeline_rdrec.CUSTOM_PIPELINES}
        files[CONFIG_FILE] = _json_bytes(read_json(folder / CONFIG_FILE) | code)
    record = TrainingRecord.find(folder / RECORD_FILE)
    if record is not None:
        recipe = recipe_for_others(record.recipe, dataset_id)
        files[RECORD_FILE] = _json_bytes(replace(record, recipe=recipe).as_dict())
        files[RECIPE_FILE] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    if not any(name in files for name in RECORDS):
        raise PublishError(
            f"--model {folder}: neither {RECORD_FILE} nor {RESULTS_FILES['test']}, so its card would be empty: "
            f"measure it with eval.py --model {folder} first"
        )
    return files


def is_hub_name(name: str) -> bool:
    """Whether a model's name is a repo id rather than a folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def recipe_for_others(recipe: dict[str, Any], dataset_id: str | None) -> dict[str, Any]:
    """A run's settings as others can use them: the dataset on the Hub in place of a folder, no path of this machine."""
    made = dict(recipe)
    for key in PATH_KEYS:
        if isinstance(made.get(key), str) and Path(made[key]).is_absolute():
            made[key] = Path(made[key]).name
    if dataset_id is not None:
        made["dataset"] = dataset_id
    return made


def _json_bytes(content: dict) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def dataset_files(folder: Path) -> tuple[Tables, Files]:
    """A built dataset and the files of its repo, without its card.

    Raises
    ------
    PublishError, DatasetError
        No built dataset there, or one whose tables are not those that were built.
    """
    if not folder.is_dir():
        raise PublishError(f"--dataset {folder}: no such folder: build it with `python -m dataset_builder`")
    tables = load_tables(folder)
    if is_time_split(tables.info):
        raise PublishError(f"--dataset {folder}: a split by time, which is for measuring: give the one it was made of")
    files: Files = {INFO_FILE: folder / INFO_FILE}
    for config, splits in SPLITS.items():
        for split in splits:
            path = folder / config / f"{split}.parquet"
            if path.is_file():
                files[f"{config}/{split}.parquet"] = path
    return tables, files


def metric_names() -> list[str]:
    """The metric modules that can be pushed."""
    return sorted(path.name for path in METRICS_DIR.iterdir() if (path / f"{path.name}.py").is_file())


def metric_files(name: str, namespace: str) -> Files:
    """Files of a metric's Space, its card included: `evaluate.load("NAMESPACE/NAME")` reads `NAME.py` from it."""
    folder = METRICS_DIR / name
    if name not in metric_names():
        raise PublishError(f"--metrics {name}: unknown, take some of {', '.join(metric_names())}")
    files: Files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    text = (folder / "README.md").read_text(encoding="utf-8").replace(f"metrics/{name}", f"{namespace}/{name}")
    card = RepoCard(text)
    card.data["sdk"] = "static"
    files["README.md"] = str(card).encode()
    # What a visitor of the Space sees; `evaluate` reads the module only.
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><pre>{html.escape(card.text)}</pre>'
    )
    files["index.html"] = page.encode()
    return files


def space_files(model: tuple[str, str], dataset: tuple[str, str]) -> Files:
    """Files of the Space, without its card; the model and the dataset are given as repo id and revision."""
    files: Files = {
        path.relative_to(SPACE_DIR).as_posix(): path
        for path in sorted(SPACE_DIR.rglob("*"))
        if path.is_file() and path.suffix in SPACE_KINDS
    }
    read = {"model": model, "dataset": dataset}
    files["space.json"] = _json_bytes({kind: dict(zip(("id", "revision"), repo)) for kind, repo in read.items()})
    return files


def trained_on(folder: Path) -> dict[str, Any]:
    """What the files of a checkpoint say of its dataset: domain, protocol, seed, counts, fingerprint; or nothing."""
    for name, kind in RECORDS.items():
        record = kind.find(folder / name)
        if record is not None and record.dataset is not None:
            return record.dataset
    return {}
