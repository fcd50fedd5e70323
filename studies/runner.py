"""The runs of studies: what they cost, what is there already, and how one is made.

    run_studies([study], Path("docs/evidence/runs"), Path("runs/studies"))

A finished run is two small files, which belong to the repository: `run.parquet`, one row, and `ranks.parquet`, the rank
of every user's item (null: beyond 100). So no run is made twice, and whoever doubts a table can count again. Neither
names a user: ranks stand in the order of the raw ids, whose digest the row has.

What a run needs until then (checkpoints, weights) is in a folder of work, deleted at the end unless it is to be kept. A
run that was stopped is made again, from its last checkpoint where it has one. Several processes, one a core, may share
the work: each passes by what another has begun.
"""

import datetime
import fcntl
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_builder.tables import INFO_FILE, load_tables
from rdrec.arguments import write_yaml
from rdrec.checkpoints.environment import package_versions
from rdrec.checkpoints.files import RECORD_FILE, RESULTS_FILES
from rdrec.checkpoints.records import EvaluationResults, TrainingRecord, read_json
from rdrec.checkpoints.run_folder import LAST, STATE_FILE
from rdrec.durable import whole_file
from rdrec.errors import UserError
from rdrec.evaluation.answers import CUTS
from rdrec.evaluation.baselines import rank_candidates, rank_sequential
from rdrec.tasks.data import TaskData
from rdrec.tasks.scores import hit_and_ndcg

from .study import Run, Study


ROW, RANKS, SETTINGS = "run.parquet", "ranks.parquet", "settings.yaml"
PEER_PYTHON = Path(".peers/bin/python")
MOST = 100  # a worse rank counts in no figure, and is kept as none
RANK_SCHEMA = pa.schema([("task", pa.string()), ("user", pa.int64()), ("rank", pa.int64())])
CATALOG = Path("catalog") / "train.parquet"


def read_row(folder: Path) -> dict | None:
    """The row of a finished run, None where there is none."""
    return pq.read_table(folder / ROW).to_pylist()[0] if (folder / ROW).is_file() else None


def is_done(run: Run, finished: Path) -> bool:
    """Whether a run is there, of the dataset as it is now."""
    row, info = read_row(finished / run.id), Path(run.path) / INFO_FILE
    return row is not None and (not info.is_file() or row["fingerprint"] == read_json(info)["fingerprint"])


def cost(studies: Sequence[Study], finished: Path) -> tuple[str, list[Run]]:
    """What is left to do and how long it takes on one core, as text, and the runs that are left, each once.

    A run is expected to take what finished ones of its dataset and kind took in the mean, else what the study guesses.
    """
    runs = list({run.id: run for study in studies for run in study.runs}.values())
    left = [run for run in runs if not is_done(run, finished)]
    taken = defaultdict(list)
    for run in runs:
        if row := read_row(finished / run.id):
            taken[run.dataset, run.kind].append(row["minutes"] + row["minutes_evaluation"])
    expected = {run.id: statistics.mean(taken[run.dataset, run.kind] or [run.minutes]) for run in left}
    lines = [f"{len(runs)} runs, {len(runs) - len(left)} of them there; left on one core:"]
    for dataset in dict.fromkeys(run.dataset for run in left):
        ids = [run.id for run in left if run.dataset == dataset]
        lines.append(f"  {dataset}: {len(ids)} runs, about {sum(expected[id] for id in ids) / 60:.1f} hours")
    return "\n".join([*lines, f"  together about {sum(expected.values()) / 60:.1f} hours"]), left


def run_studies(studies: Sequence[Study], finished: Path, work: Path, keep_models: bool = False) -> None:
    """Say what the runs cost, then make those that are not there."""
    text, left = cost(studies, finished)
    print(text, flush=True)
    makes = {folder: command for study in studies for folder, command in study.make.items()}
    needed = {run.path for run in left}
    for folder in reversed(makes):  # and what one that is missing is made of
        if folder in needed and not (Path(folder) / INFO_FILE).is_file():
            needed |= set(makes[folder])
    for folder, command in makes.items():
        with _alone(work / f".{folder.replace('/', '-')}.lock", wait=True):
            if folder in needed and not (Path(folder) / INFO_FILE).is_file():
                _call([sys.executable, *command[1:]] if command[0] == "python" else command)
    for run in left:
        with _alone(work / f".{run.id}.lock") as mine:
            if mine and not is_done(run, finished):
                print(f"{run.dataset}, {run.setting}, seed {run.seed}: {run.id}", flush=True)
                row, ranks = _make(run, work / run.id)
                (finished / run.id).mkdir(parents=True, exist_ok=True)
                for name, table in ((RANKS, ranks), (ROW, row)):
                    with whole_file(finished / run.id / name) as file:
                        pq.write_table(table, file, compression="zstd", write_statistics=False)
                if not keep_models:
                    shutil.rmtree(work / run.id, ignore_errors=True)  # a baseline has none


@contextmanager
def _alone(lock: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process alone has a lock, until the end of the `with`; one that dies gives it back."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _call(command: Sequence[str | Path]) -> None:
    if code := subprocess.run([str(word) for word in command]).returncode:
        raise UserError(
            f"`{' '.join(map(str, command))}` ended with {code}: see above, mend it and run the study again"
        )


def _make(run: Run, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Make one run, in a folder of its own: its row and its ranks."""
    if run.kind == "model":
        found, ranks = _train_and_evaluate(run, folder)
    elif run.kind == "baseline":
        found, ranks = _rank_baseline(run)
    else:
        if not PEER_PYTHON.is_file():
            raise UserError(f"{PEER_PYTHON}: not there: `make peers` makes the environment of the other libraries")
        flags = ["--dataset", run.path, "--model", run.settings["peer"], "--seed", run.seed, "--output", folder]
        _call([PEER_PYTHON, "-m", "studies.peers", *flags])
        found, ranks = _read_peer(folder)
    info = read_json(Path(run.path) / INFO_FILE)
    ranks, users = _by_raw_id(ranks, Path(run.path))
    row = {
        **{name: getattr(run, name) for name in ("id", "dataset", "setting", "kind", "seed")},
        "settings": json.dumps(run.settings, sort_keys=True),
        "fingerprint": info["fingerprint"],
        "users": users,
        "protocol": info["protocol"],
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "minutes": 0.0,
        "minutes_evaluation": 0.0,
        "versions": json.dumps(package_versions()),
        "commit": subprocess.run(
            ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip(),
        **found,
    }
    return pa.Table.from_pylist([row]), ranks


def _by_raw_id(ranks: pa.Table, dataset: Path) -> tuple[pa.Table, str]:
    """Ranks in the order of the users' raw ids, and a digest of these: under equal digests, two builds of the same
    purchases can be compared user by user."""
    catalog = pq.read_table(dataset / CATALOG, columns=["kind", "raw_id"])
    raw_ids = catalog.filter(pc.equal(catalog["kind"], "user"))["raw_id"].take(pc.subtract(ranks["user"], 1))
    ordered = ranks.set_column(1, "user", raw_ids).sort_by([("task", "ascending"), ("user", "ascending")])
    users = "\n".join(sorted(set(raw_ids.to_pylist())))
    rank = ordered["rank"]
    ordered = ordered.set_column(2, "rank", pc.if_else(pc.less_equal(rank, MOST), rank, None))
    return ordered.drop_columns("user"), hashlib.sha256(users.encode()).hexdigest()


def _train_and_evaluate(run: Run, folder: Path) -> tuple[dict, pa.Table]:
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(run.settings, folder / SETTINGS)
    if not (folder / RECORD_FILE).is_file():
        goes_on = (folder / LAST / STATE_FILE).is_file()
        start = ["--resume_from_checkpoint", "last"] if goes_on else ["--overwrite_output_dir"]
        _call([sys.executable, "train.py", "--config", folder / SETTINGS, "--output_dir", folder, *start])
    _call([sys.executable, "eval.py", "--model", folder, "--dataset", run.path, "--tasks", *run.tasks])
    record = TrainingRecord.read(folder / RECORD_FILE)
    results = EvaluationResults.read(folder / RESULTS_FILES["test"])
    found = {"minutes": record.minutes, "minutes_evaluation": sum(results.minutes.values())}
    found |= {"parameters": record.model["parameters"], "validation": record.best_metric or record.best_validation_loss}
    found |= {"best_step": record.best_step, "prior": json.dumps(record.prior), "device": record.device}
    for task, scores in results.results.items():
        ways = {"": scores, **results.variants.get(task, {}), "shown": results.beyond_accuracy.get(task, {})}
        for kind, parts in results.segments.get(task, {}).items():
            ways |= {f"{kind} {label}": part for label, part in parts.items()}
        for way, row in ways.items():
            found |= {" ".join(filter(None, [task, way, name])): float(value) for name, value in row.items()}
    ranks = []
    for task in set(run.tasks) & set(CUTS):
        answers = pq.read_table(folder / f"eval_test_{task}.parquet", columns=["user", "rank"])
        ranks.append(answers.add_column(0, "task", pa.array([task] * len(answers))).cast(RANK_SCHEMA))
    return found, pa.concat_tables(ranks) if ranks else RANK_SCHEMA.empty_table()


def _rank_baseline(run: Run) -> tuple[dict, pa.Table]:
    data, method = TaskData(load_tables(run.path)), run.settings["baseline"]
    users = np.arange(1, len(data.sequences) + 1)
    given = data.sequences, users, *data.candidates["test"], method, data.num_items
    ranked = {
        "sequential": rank_sequential(data.sequences, "test", method, data.num_items, run.seed, data.untested),
        "topn": rank_candidates(*given, seed=run.seed, untested=data.untested),
    }
    parts = [pa.table({"task": [task] * len(users), "user": users, "rank": ranks}) for task, ranks in ranked.items()]
    return _figures(ranked), pa.concat_tables(parts).cast(RANK_SCHEMA)


def _read_peer(folder: Path) -> tuple[dict, pa.Table]:
    table = pq.read_table(folder / "peer.parquet")
    parts = {task: table.filter(pc.equal(table["task"], task))["rank"] for task in CUTS}
    ranked = {task: part.fill_null(np.inf).to_numpy() for task, part in parts.items()}
    return read_json(folder / "peer.json") | _figures(ranked), table.cast(RANK_SCHEMA)


def _figures(ranked: dict[str, np.ndarray]) -> dict[str, float]:
    """Figures by task and name of each task's ranks."""
    scores = {task: hit_and_ndcg(ranks, CUTS[task]) for task, ranks in ranked.items()}
    return {f"{task} {name}": value for task, row in scores.items() for name, value in row.items()}
