"""A study's YAML file and the runs that it asks for.

    study = read_study(Path("studies/rationales.yaml"))
    study.runs[0].id        # sample-1-3f2a91c0: dataset, seed, and a digest of all settings

    title: What rationales are worth as item text
    about: A sentence or two for the report.
    tasks: [sequential, topn]                 # what eval.py is asked for; default: these two
    seeds: [1, 2, 3, 4, 5]                    # a dataset's entry or a setting may have its own, the setting's counts
    against: titles                           # what the others are compared with
    metrics: [sequential ndcg@10]             # what the report's tables show, the plot its first
    datasets:
      sample: {path: data/sample, recipe: recipes/sample.yaml, minutes: 3}     # of one run on one core, a guess
    make:                                     # run first, where a run needs the folder and it is not there; what
                                              # another is made of stands before it, and as a word of its command
      data/sample: python -m rdrec.sample build --output data/sample
    settings:                                 # flags of train.py over the recipe; {dataset} stands for its name, and
                                              # {word} for what the dataset's entry has under that word
      no texts: {item_text: [none]}
      titles: {item_text: [catalog]}
      transitions: {baseline: transitions}    # random, popularity, transitions: nothing is trained
      item-kNN: {peer: item-knn}              # item-knn, ease, als, sasrec: by .peers/bin/python (make peers)
      planted: {dataset: "data/{dataset}-planted", only: [sample]}

Equal settings are one run, whichever study asks for it: all of them share one folder of runs.
"""

import hashlib
import json
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rdrec.arguments import parse_arguments, write_yaml
from rdrec.errors import UserError
from rdrec.evaluation.baselines import METHODS
from rdrec.evaluation.settings import TASKS
from rdrec.training.recipe import Recipe


KEYS = {"title", "about", "tasks", "seeds", "against", "metrics", "datasets", "make", "settings"}
PEERS = ("item-knn", "ease", "als", "sasrec")
METRICS = ["sequential hr@10", "sequential ndcg@10", "topn hr@1", "topn hr@10"]


@dataclass(frozen=True)
class Run:
    """One training and evaluation, or one baseline's ranking.

    Attributes
    ----------
    id : str
        Name of its folder.
    dataset, setting : str
        As the study calls them.
    path : str
        Folder of the built dataset.
    seed : int
    kind : {"model", "baseline", "peer"}
    settings : dict
        Of a model the recipe's, whole; otherwise the name of the baseline or peer.
    tasks : tuple of str
    minutes : float
        What the study guesses that it takes on one core.
    """

    id: str
    dataset: str
    setting: str
    path: str
    seed: int
    kind: str
    settings: dict[str, Any] = field(hash=False)
    tasks: tuple[str, ...]
    minutes: float


@dataclass(frozen=True)
class Study:
    """What a study's file says."""

    name: str
    title: str
    about: str
    against: str | None
    metrics: list[str]
    make: dict[str, list[str]]
    runs: list[Run]


def read_study(path: Path) -> Study:
    """Read and check a study.

    Raises
    ------
    UserError
        For a file that is none, an unknown key, flag or name, or a value that train.py would refuse.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such study: give a YAML file, such as one of studies/")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not {"title", "datasets", "settings"} <= set(content):
        raise UserError(f"{path}: not a study: give it title, datasets and settings (see studies/study.py)")
    if unknown := set(content) - KEYS:
        raise UserError(f"{path}: unknown key {min(unknown)!r}: take some of {', '.join(sorted(KEYS))}")
    tasks = tuple(content.get("tasks", ["sequential", "topn"]))
    if wrong := set(tasks) - set(TASKS):
        raise UserError(f"{path}: tasks: {min(wrong)!r} is none, take some of {', '.join(TASKS)}")
    seeds, against = content.get("seeds", [1, 2, 3, 4, 5]), content.get("against")
    if against is not None and against not in content["settings"]:
        raise UserError(f"{path}: against: no setting {against!r}, take one of {', '.join(content['settings'])}")
    runs = [
        run
        for dataset, where in content["datasets"].items()
        for setting, flags in content["settings"].items()
        if dataset in (flags or {}).get("only", [dataset])
        for run in _runs(f"{path}: {setting}", dataset, {"seeds": seeds, **where}, setting, dict(flags or {}), tasks)
    ]
    made = {str(folder): shlex.split(command) for folder, command in content.get("make", {}).items()}
    metrics = content.get("metrics", METRICS)
    return Study(path.stem, content["title"], content.get("about", ""), against, metrics, made, runs)


def _runs(place: str, dataset: str, where: dict, setting: str, flags: dict, tasks: tuple[str, ...]) -> Iterator[Run]:
    """One setting on one dataset, a run a seed; `place` names it in errors."""
    flags.pop("only", None)
    seeds = flags.pop("seeds", where["seeds"])
    named = {**where, "dataset": dataset}
    flags = {
        name: yaml.safe_load(value.format(**named)) if isinstance(value, str) and "{" in value else value
        for name, value in flags.items()
    }
    path = flags.pop("dataset", where["path"])
    kind = next((kind for kind in ("baseline", "peer") if kind in flags), "model")
    if kind == "model":
        settings = _recipe(place, where["recipe"], {**flags, "dataset": path})
    elif flags[kind] in {"baseline": METHODS, "peer": PEERS}[kind] and len(flags) == 1:
        # These train on nothing but what is in the dataset, and rank alike whichever task a study shows.
        settings, tasks = flags, ("sequential", "topn")
    else:
        raise UserError(f"{place}: {kind} {flags[kind]!r}: take one of {', '.join((*METHODS, *PEERS))} and no flags")
    minutes = float(where["minutes"]) if kind == "model" else 0.1
    for seed in seeds:
        seeded = settings | ({"seed": seed} if kind == "model" else {})
        digest = hashlib.sha256(json.dumps([path, seeded, tasks, kind], sort_keys=True).encode()).hexdigest()[:10]
        yield Run(f"{dataset}-{seed}-{digest}", dataset, setting, path, seed, kind, seeded, tasks, minutes)


def _recipe(place: str, file: str, flags: dict) -> dict[str, Any]:
    """All settings of a training: the recipe's, with those of the study over them; of `model_config` key by key."""
    if not Path(file).is_file():
        raise UserError(f"{place}: recipe {file}: no such file")
    recipe = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    if isinstance(flags.get("model_config"), dict):
        flags = flags | {"model_config": recipe.get("model_config", {}) | flags["model_config"]}
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged.yaml"
        write_yaml(recipe | flags | {"output_dir": None}, merged)
        try:
            settings = parse_arguments(Recipe, "", ["--config", str(merged)]).reproducing()
        except UserError as error:
            raise UserError(f"{place}: {str(error).removeprefix(f'{merged}: ')}") from error
    del settings["output_dir"]
    return settings
