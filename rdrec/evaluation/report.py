"""What stands beside a model's figures (baselines that learn nothing, the sample's planted ceiling), and the table."""

from dataset_builder.tables import Tables
from rdrec.sample.build import world_from_info
from rdrec.sample.ceiling import ceiling_ranks
from rdrec.tasks.data import TaskData
from rdrec.tasks.scores import hit_and_ndcg

from .answers import CUTS
from .baselines import METHODS, rank_candidates, rank_sequential


CEILING_CUTS = (1, 5, 10)
SEGMENT_TEXT_SCORES = ("bleu-4", "rouge-l-f")  # of explanations


def reference_points(
    data: TaskData, tables: Tables, split: str, seed: int = 0, max_samples: int | None = None
) -> dict[str, dict[str, dict]]:
    """Scores of random, popularity and transitions, and of the planted truth where it is known, by task.

    With `max_samples` the baselines' scores are those of the first users only, as the model's are.

    Returns
    -------
    dict
        Task ("sequential", "topn") to name to scores (`hr@k`, `ndcg@k`).
    """
    users = list(range(1, len(data.sequences) + 1))
    positives, negatives = data.candidates[split]
    points: dict[str, dict[str, dict]] = {"sequential": {}, "topn": {}}
    # The ceiling is a figure of all users, so it does not stand beside a part of them.
    if data.info["source"].get("kind") == "sample" and max_samples is None:
        for task, ranks in ceiling_ranks(world_from_info(data.info), tables, split).items():
            points[task]["planted ceiling"] = hit_and_ndcg(ranks, CEILING_CUTS)
    for method in reversed(METHODS):
        ranks = rank_sequential(data.sequences, split, method, data.num_items, seed, data.untested)
        points["sequential"][method] = hit_and_ndcg(ranks[:max_samples], CUTS["sequential"])
        asked = (data.sequences, users, positives, negatives)
        ranks = rank_candidates(*asked, method, data.num_items, seed, split, data.untested)
        points["topn"][method] = hit_and_ndcg(ranks[:max_samples], CUTS["topn"])
    return points


def format_table(
    results: dict[str, dict], variants: dict[str, dict[str, dict]], points: dict[str, dict[str, dict]]
) -> str:
    """The tables that eval.py prints: a block a task, rows for the model, its variants and each point of reference."""
    blocks = []
    for task, scores in results.items():
        if task == "explanation":
            rows = {"model": scores, **{f"  {name}": row for name, row in variants[task].items()}}
            columns = ["bleu-1", "bleu-4", "rouge-1-f", "rouge-l-f", "fmr", "usr", "support"]
            columns = [column for column in columns if column in scores]
        else:
            rows = {"model": scores, **{f"  {name}": row for name, row in variants[task].items()}, **points[task]}
            columns = [f"{name}@{k}" for k in CUTS[task] for name in ("hr", "ndcg") if (name, k) != ("ndcg", 1)]
        width = max(map(len, rows))
        lines = [f"{task:<{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
        digits = 2 if task == "explanation" else 4
        for name, row in rows.items():
            lines.append(f"{name:<{width}}  " + "  ".join(f"{row[column]:>9.{digits}f}" for column in columns))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def format_beyond(beyond: dict[str, dict[str, float]]) -> str:
    """A line a task: coverage, popularity, novelty and diversity of what is recommended; "" where nothing was."""
    lines = []
    for task, scores in beyond.items():
        lines.append("  ".join([f"{task}, what is shown:", *(f"{name} {value:.4f}" for name, value in scores.items())]))
    return "\n".join(lines)


def format_segments(segments: dict[str, dict[str, dict[str, dict[str, float]]]]) -> str:
    """A block a task and kind: a row a segment, with its queries and scores."""
    blocks = []
    for task, kinds in segments.items():
        for kind, parts in kinds.items():
            title = f"{task} by {kind}"
            width = max(map(len, [title, *parts]))
            columns = list(next(iter(parts.values())))
            lines = [f"{title:<{width}}  " + "  ".join(f"{column:>9}" for column in columns)]
            for label, row in parts.items():
                cells = [f"{row[name]:>9}" if name == "queries" else f"{row[name]:>9.4f}" for name in columns]
                lines.append(f"{label:<{width}}  " + "  ".join(cells))
            blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
