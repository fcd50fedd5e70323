"""A study's report: tables as Markdown and CSV, plots as PNG and SVG, of the runs that are there.

    write_report(study, Path("docs/evidence/runs"), Path("docs/evidence"))     # NAME.md, NAME.csv, NAME.png, NAME.svg

A table a dataset with mean and standard deviation over seeds; then what each setting gains over the one that the study
compares with: 95% intervals over users and over seeds, p with Holm's correction over all comparisons of the report, and
the size of the effect. What has no interval is not printed as a difference. Last, whether one dataset puts the settings
in the order that another does.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from rdrec.durable import whole_file, write_text
from rdrec.errors import UserError

from .runner import RANKS, is_done, read_row
from .statistics import Difference, SeedTest, holm, over_seeds, over_users, same_order, seed_interval
from .study import Study


matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "rdrec"  # equal plots, equal files
from matplotlib import pyplot  # noqa: E402


FEWEST_IN_ORDER = 5  # settings: the same order of four, or its reverse, is one in twelve by chance


@dataclass
class Cell:
    """All runs of one setting on one dataset: row and file of ranks by seed."""

    rows: dict[int, dict] = field(default_factory=dict)
    ranks: dict[int, Path] = field(default_factory=dict)

    def values(self, metric: str, seeds: list[int]) -> list[float]:
        return [self.rows[seed][metric] for seed in seeds]

    def user_scores(self, metric: str, seeds: list[int]) -> np.ndarray | None:
        """The metric of each user [users], the mean over seeds; None where ranks do not tell it."""
        task, _, name = metric.partition(" ")
        kind, _, cut = name.partition("@")
        if kind not in ("hr", "ndcg"):  # a name with more words is another way to ask, or a segment
            return None
        scores = []
        for seed in seeds:
            table = pq.read_table(self.ranks[seed], filters=[("task", "=", task)])
            ranks = table["rank"].cast("float64").fill_null(np.inf).to_numpy()
            scores.append(np.where(ranks <= int(cut), 1 / np.log2(1 + ranks) if kind == "ndcg" else 1.0, 0.0))
        return np.mean(scores, axis=0)

    @property
    def users(self) -> set[str]:
        """Digests of whose ranks these are."""
        return {row["users"] for row in self.rows.values()}


@dataclass
class Gain:
    """What a setting gains over the one it is compared with."""

    dataset: str
    setting: str
    metric: str
    users: Difference | None
    seeds: SeedTest | None


def collect(study: Study, runs: Path) -> dict[str, dict[str, Cell]]:
    """The runs that are there by dataset and setting, in the order of the study."""
    cells: dict[str, dict[str, Cell]] = defaultdict(lambda: defaultdict(Cell))
    for run in study.runs:
        if is_done(run, runs):
            cell = cells[run.dataset][run.setting]
            cell.rows[run.seed] = read_row(runs / run.id)
            cell.ranks[run.seed] = runs / run.id / RANKS
    return cells


def gains(study: Study, cells: dict[str, dict[str, Cell]]) -> Iterator[Gain]:
    """Every comparison that has an interval, over the seeds that both sides have."""
    for dataset, settings in cells.items():
        base = settings.get(study.against)
        for setting, cell in settings.items():
            if base is None or cell is base or not (seeds := sorted(set(cell.rows) & set(base.rows))):
                continue
            for metric in study.metrics:
                if metric not in cell.rows[seeds[0]] or metric not in base.rows[seeds[0]]:
                    continue
                ours, theirs = cell.user_scores(metric, seeds), base.user_scores(metric, seeds)
                # Two datasets of other users have nothing to pair.
                same = ours is not None and cell.users == base.users and len(cell.users) == 1
                users = over_users(ours, theirs) if same else None
                pairs = cell.values(metric, seeds), base.values(metric, seeds)
                tested = over_seeds(*pairs) if len(seeds) > 1 else None
                if users or tested:
                    yield Gain(dataset, setting, metric, users, tested)


def write_report(study: Study, runs: Path, output: Path) -> str:
    """Write the four files; returns what was written, in a line.

    Raises
    ------
    UserError
        No run of the study is there.
    """
    cells = collect(study, runs)
    if not cells:
        raise UserError(f"{study.name}: no run of it in {runs}: `python -m studies run` makes them")
    output.mkdir(parents=True, exist_ok=True)
    found = list(gains(study, cells))
    there = sum(len(cell.rows) for settings in cells.values() for cell in settings.values())
    parts = [f"# {study.title}", study.about, f"{there} of {len(study.runs)} runs; test split. Made by"]
    commands = "\n".join(f"python -m studies {name} studies/{study.name}.yaml" for name in ("run", "report"))
    parts += [f"```bash\n{commands}\n```"]
    parts += [_means(study, dataset, settings) for dataset, settings in cells.items()]
    parts += [_gains(study, found)] if found else []
    parts += [_orders(study.metrics[0], cells)]
    parts += [f"![{study.metrics[0]} by setting]({study.name}.svg)"]
    write_text(output / f"{study.name}.md", "\n\n".join(filter(None, parts)) + "\n")
    _write_csv(cells, output / f"{study.name}.csv")
    _plot(study, cells, output)
    return f"{output / study.name}.md, .csv, .png, .svg: {there} of {len(study.runs)} runs, {len(found)} comparisons"


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows])


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


def _means(study: Study, dataset: str, settings: dict[str, Cell]) -> str:
    rows = []
    for setting, cell in settings.items():
        seeds, texts = sorted(cell.rows), []
        for metric in [*study.metrics, "minutes"]:
            if metric not in cell.rows[seeds[0]]:
                texts.append("")
                continue
            mean, spread, half = seed_interval(cell.values(metric, seeds))
            texts.append(_number(mean) + (f" ± {_number(spread)}" if half is not None else ""))
        rows.append([setting, *texts, str(len(seeds))])
    title = f"## {dataset}\n\nMean ± standard deviation over seeds; minutes are those of training.\n\n"
    return title + _table(["", *study.metrics, "minutes", "seeds"], rows)


def _gains(study: Study, found: list[Gain]) -> str:
    tested = [gain.seeds.p for gain in found if gain.seeds]
    corrected = iter(holm(tested))
    rows = []
    for gain in found:
        p = _p(next(corrected)) if gain.seeds else ""
        size = gain.seeds.size if gain.seeds else None
        spans = [_span(gain.users), _span(gain.seeds.difference if gain.seeds else None)]
        rows.append([gain.dataset, gain.setting, gain.metric, *spans, p, _span(size, ".1f")])
    text = (
        f"## Gains over “{study.against}”\n\nDifference and its 95% interval: over users by paired bootstrap, over "
        f"seeds by the paired t-test, whose p is corrected after Holm for {len(tested)} comparisons; d is the "
        "difference over seeds in its standard deviations. Empty: one seed, or a figure without ranks of users.\n\n"
    )
    header = ["data", "setting", "metric", "over users", "over seeds", "p", "d"]
    return text + _table(header, rows)


def _orders(metric: str, cells: dict[str, dict[str, Cell]]) -> str:
    """A line a pair of datasets: how alike they put their settings in order; "" where none has enough in common."""
    means = {
        dataset: {
            name: seed_interval(cell.values(metric, sorted(cell.rows)))[0]
            for name, cell in settings.items()
            if metric in next(iter(cell.rows.values()))
        }
        for dataset, settings in cells.items()
    }
    rows = []
    for (one, ours), (other, theirs) in itertools.combinations(means.items(), 2):
        both = [name for name in ours if name in theirs]
        if len(both) >= FEWEST_IN_ORDER:
            correlation, p = same_order([ours[name] for name in both], [theirs[name] for name in both])
            best = (max(both, key=found.get) for found in (ours, theirs))
            rows.append([one, other, str(len(both)), f"{correlation:+.2f}", _p(p), *best])
    if not rows:
        return ""
    text = (
        f"## The same order everywhere?\n\nSpearman's rank correlation of the settings' means of {metric} between two "
        "datasets, its p over permutations (not corrected), and which setting is best in each.\n\n"
    )
    return text + _table(["one", "other", "settings", "correlation", "p", "best in one", "best in the other"], rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def _span(difference: Difference | None, form: str = ".4f") -> str:
    if difference is None:
        return ""
    return f"{difference.value:+{form}} ({difference.low:+{form}} to {difference.high:+{form}})"


def _write_csv(cells: dict[str, dict[str, Cell]], path: Path) -> None:
    """One line a run, whatever any of them measured in columns."""
    rows = [
        row | {"dataset": dataset, "setting": setting}
        for dataset, settings in cells.items()
        for setting, cell in settings.items()
        for _, row in sorted(cell.rows.items())
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = pa.table({name: [row.get(name) for row in rows] for name in columns})
    with whole_file(path) as work:
        pyarrow.csv.write_csv(table, work)


def _plot(study: Study, cells: dict[str, dict[str, Cell]], output: Path) -> None:
    """The study's first metric by setting, a panel a dataset, mean and 95% interval over seeds; a curve where the
    settings are numbers."""
    metric = study.metrics[0]
    figure, panels = pyplot.subplots(
        1, len(cells), figsize=(4.2 * len(cells), 3.4), squeeze=False, layout="constrained"
    )
    for panel, (dataset, settings) in zip(panels[0], cells.items()):
        shown = {name: cell for name, cell in settings.items() if metric in next(iter(cell.rows.values()))}
        found = [seed_interval(cell.values(metric, sorted(cell.rows))) for cell in shown.values()]
        means, halves = [mean for mean, _, _ in found], [half or 0.0 for _, _, half in found]
        if all(_is_number(name) for name in shown):
            panel.errorbar([float(name) for name in shown], means, yerr=halves, marker="o", capsize=3)
            panel.set_ylabel(metric)
        else:
            panel.errorbar(means, list(shown), xerr=halves, fmt="o", capsize=3)
            panel.invert_yaxis()
            panel.set_xlabel(metric)
        panel.set_title(dataset)
    for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        with whole_file(output / f"{study.name}.{ending}") as work:
            figure.savefig(work, format=ending, dpi=150, metadata=metadata)
    pyplot.close(figure)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
