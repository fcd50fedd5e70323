"""What goes into each repo: path in the repo to a local file, or to bytes where a file is made for publishing.

    files = model_files(Path("runs/beauty"), dataset_id="rdrec/beauty-rationales")

Only files of a known kind are taken, so checkpoints to resume from, logs, and answers with review texts stay behind.
Absolute paths of this machine are cut down to their last part.
"""

import fnmatch
import html
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import RepoCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dataset_builder.tables import INFO_FILE, SPLITS, Tables, load_tables
from modeling_rdrec import configuration_rdrec, pipeline_rdrec
from rdrec.checkpoints.run_folder import RECIPE_FILE, RECORD_FILE

from .hub import Files, PublishError


METRICS_DIR = Path(__file__).resolve().parents[2] / "metrics"
SPACE_DIR = Path(__file__).resolve().parents[2] / "space"
CODE_DIR = Path(configuration_rdrec.__file__).parent
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model", "catalog*")
ADAPTER_FILE = "adapter_config.json"
CONVERSION_FILE = "conversion_record.json"
RESULTS = ("eval_results.json", "eval_results_validation.json")
PATH_KEYS = ("dataset", "output_dir", "model_name_or_path")
SPACE_FILES = ("app.py", "answers.py", "requirements.txt")
# What the Space needs of the repos that it reads.
SPACE_READS = {
    "model": {"config.json", "pipeline_rdrec.py", "catalog.json"},
    "dataset": {"catalog/train.parquet", "interactions/train.parquet"},
}


def read_json(path: Path) -> dict[str, Any] | None:
    """Content of a JSON file; None where there is none.

    Raises
    ------
    PublishError
        For a file that is no JSON object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{path}: not readable as JSON ({error}): make it again, or delete it") from error
    if not isinstance(content, dict):
        raise PublishError(f"{path}: not a JSON object: make it again, or delete it")
    return content


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
    adapter = read_json(folder / ADAPTER_FILE)
    if adapter is None:
        return None
    name = adapter.get("base_model_name_or_path")
    if not isinstance(name, str) or not is_hub_name(name):
        raise PublishError(
            f"--model {folder}: adapters over a folder of this machine ({name}): publish that checkpoint first, and "
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
        The published dataset that the checkpoint was trained on: it takes the local path's place in the recipe.

    Raises
    ------
    PublishError
        No checkpoint there, or nothing measured that a card could be made of.
    """
    if not folder.is_dir():
        raise PublishError(f"--model {folder}: no such folder")
    config, base = read_json(folder / "config.json"), base_of(folder)
    if config is None and base is None:
        raise PublishError(f"--model {folder}: no config.json, so no finished checkpoint: train to the end, or convert")
    files: Files = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatch(path.name, pattern) for pattern in (*WEIGHTS, *TOKENIZER))
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise PublishError(f"--model {folder}: no model.safetensors; pickled weights are not published: save it again")
    for name in ("generation_config.json", *RESULTS, CONVERSION_FILE):
        if (folder / name).is_file():
            files[name] = folder / name
    # The code that eval.py measured with, not what lay beside the weights when they were saved.
    files |= {path.name: path for path in sorted(CODE_DIR.glob("*.py")) if path.name != "__init__.py"}
    if base is not None:
        files[ADAPTER_FILE] = folder / ADAPTER_FILE
    else:
        config |= {
            "auto_map": configuration_rdrec.AUTO_MAP,
            "custom_pipelines": pipeline_rdrec.CUSTOM_PIPELINES,
        }
        files["config.json"] = _json_bytes(config)
    record = read_json(folder / RECORD_FILE)
    if record is not None:
        recipe = published_recipe(record["recipe"], dataset_id)
        files[RECORD_FILE] = _json_bytes({**record, "recipe": recipe})
        files[RECIPE_FILE] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    if record is None and not any(name in files for name in (*RESULTS, CONVERSION_FILE)):
        raise PublishError(
            f"--model {folder}: neither {RECORD_FILE} nor {RESULTS[0]}, so its card would be empty: measure it with "
            f"eval.py --model {folder} first"
        )
    return files


def is_hub_name(name: str) -> bool:
    """Whether a model's name is a repo id rather than a folder."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1 and not Path(name).exists()


def published_recipe(recipe: dict[str, Any], dataset_id: str | None) -> dict[str, Any]:
    """A run's settings as others can use them: the published dataset in place of a folder, no path of this machine."""
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
    files: Files = {INFO_FILE: folder / INFO_FILE}
    for config, splits in SPLITS.items():
        for split in splits:
            path = folder / config / f"{split}.parquet"
            if path.is_file():
                files[f"{config}/{split}.parquet"] = path
    return tables, files


def metric_names() -> list[str]:
    """The metric modules that can be published."""
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
    files: Files = {name: SPACE_DIR / name for name in SPACE_FILES}
    read = {"model": model, "dataset": dataset}
    files["space.json"] = _json_bytes({kind: dict(zip(("id", "revision"), repo)) for kind, repo in read.items()})
    return files


def trained_on(folder: Path) -> dict[str, Any]:
    """What the files of a checkpoint say of its dataset: domain, protocol, seed, counts, fingerprint; or nothing."""
    for name in (RECORD_FILE, *RESULTS, CONVERSION_FILE):
        found = (read_json(folder / name) or {}).get("dataset")
        if found is not None:
            return found
    return {}
