"""The report on a set of rationales: rates of ungrounded halves with 95% intervals, by review length and by flag.

print(text_table(length_table(table)))
page = report(table, "rationales.parquet")      # one HTML page, its plot drawn in SVG
"""

import html
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from dataset_builder.rationales import RATIONALE_TASKS

from .flags import EMPTY, FLAGS
from .policy import CHOICES
from .score import SCORER_FILE, THRESHOLD


LENGTHS = ((0, 9), (10, 19), (20, 39), (40, 79), (80, 159), (160, None))  # words of a review
POINTS = 2000  # in the plot; more blur it and make the file heavy
POINT_STREAM = 3  # numpy.random.default_rng([0, STREAM])


class Rate(NamedTuple):
    """A share with its count and its 95% interval."""

    count: int
    total: int
    low: float
    high: float

    def __str__(self) -> str:
        if not self.total:
            return "-"
        return f"{self.count / self.total:.1%} ({self.low:.1%} to {self.high:.1%})"


def wilson(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share; 0 to 1 where there is nothing to count."""
    if not total:
        return 0.0, 1.0
    z = 1.959964
    middle = (count + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(count * (total - count) / total + z * z / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(count: int, total: int) -> Rate:
    """A share with Wilson's interval."""
    return Rate(count, total, *wilson(count, total))


class Table(NamedTuple):
    """What is known of each half: review words [n], score [n] and flags [n]; a row's halves follow each other."""

    lengths: np.ndarray
    scores: np.ndarray
    flags: list[tuple[str, ...]]

    def of_half(self, half: str) -> "Table":
        start = RATIONALE_TASKS.index(half)
        return Table(self.lengths[start::2], self.scores[start::2], self.flags[start::2])


def ungrounded_rate(table: Table) -> Rate:
    """Share of the halves with a text whose score is below the threshold; `table` holds one kind of half."""
    given = np.array([EMPTY not in flags for flags in table.flags], dtype=bool)
    return rate(int((given & (table.scores < THRESHOLD)).sum()), int(given.sum()))


def ungrounded_rate_of_rows(table: Table) -> Rate:
    """The same over both halves; its interval counts a row's two halves as one observation, for they are alike."""
    given = np.array([EMPTY not in flags for flags in table.flags], dtype=float).reshape(-1, 2)
    bad = given * (table.scores.reshape(-1, 2) < THRESHOLD)
    total, count = given.sum(), bad.sum()
    if count in (0, total):  # no spread to estimate an interval from
        return rate(int(count), int(total))
    share = count / total
    # The ratio estimator's variance over rows.
    error = math.sqrt((((bad - share * given).sum(axis=1)) ** 2).sum()) / total
    return Rate(int(count), int(total), max(0.0, share - 1.96 * error), min(1.0, share + 1.96 * error))


def by_length(table: Table) -> list[tuple[str, int, dict[str, Rate], float, Counter[str]]]:
    """For each class of review length: its name, rows, rate of ungrounded halves by kind, mean score and flags."""
    found = []
    for low, high in LENGTHS:
        inside = (table.lengths >= low) & (table.lengths <= (math.inf if high is None else high))
        part = Table(
            table.lengths[inside],
            table.scores[inside],
            [flags for flags, kept in zip(table.flags, inside.tolist(), strict=True) if kept],
        )
        if not len(part.scores):
            continue
        rates = {half: ungrounded_rate(part.of_half(half)) for half in RATIONALE_TASKS}
        flags = Counter(flag for flags in part.flags for flag in flags)
        name = f"{low}+" if high is None else f"{low} to {high}"
        found.append((name, len(part.scores) // 2, rates, float(part.scores.mean()), flags))
    return found


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's; 0 where one side does not vary."""
    ranks = [_ranks(values) for values in (left, right)]
    if any(one.std() == 0 for one in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]  # ties share their mean rank


def length_table(table: Table) -> list[list[str]]:
    """Header and rows of the rates by review length."""
    rows = [["review words", "rationales", *(f"ungrounded {half}" for half in RATIONALE_TASKS), "mean score"]]
    for name, count, rates, mean, _ in by_length(table):
        rows.append([name, f"{count:,}", *(str(rates[half]) for half in RATIONALE_TASKS), f"{mean:.2f}"])
    whole = {half: ungrounded_rate(table.of_half(half)) for half in RATIONALE_TASKS}
    rows.append(["all", f"{len(table.scores) // 2:,}", *map(str, whole.values()), f"{table.scores.mean():.2f}"])
    return rows


def flag_table(table: Table) -> list[list[str]]:
    """Header and rows of how often each flag stands, by kind of half."""
    rows = [["flag", *RATIONALE_TASKS]]
    for flag in FLAGS:
        cells = []
        for half in RATIONALE_TASKS:
            part = table.of_half(half)
            cells.append(str(rate(sum(flag in flags for flags in part.flags), len(part.flags))))
        rows.append([flag, *cells])
    return rows


def plot(table: Table) -> str:
    """Grounding against review length as SVG: a dot a half (2,000 drawn by seed), and the mean of each length class."""
    width, height, left, bottom, top = 860, 420, 60, 50, 20
    longest = max(10.0, float(table.lengths.max()))
    span = math.log(longest + 1)

    def place(words: float, score: float) -> tuple[str, str]:
        x = left + (width - left - 20) * math.log(words + 1) / span
        return f"{x:.1f}", f"{height - bottom - (height - bottom - top) * score:.1f}"

    rng = np.random.default_rng([0, POINT_STREAM])
    drawn = rng.permutation(len(table.scores))[:POINTS]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        f'font-size="12"><title>Grounding score against review length</title><rect width="100%" height="100%" '
        'fill="#fff"/>'
    ]
    for score in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(0, score)
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y}" text-anchor="end" dy="4">{score}</text>')
    for words in (0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000):
        if words <= longest:
            x, y = place(words, 0)
            parts.append(f'<text x="{x}" y="{float(y) + 18:.1f}" text-anchor="middle">{words}</text>')
    _, y = place(0, THRESHOLD)
    parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{y}" y2="{y}" stroke="#b00" stroke-dasharray="5 4"/>')
    jitter = rng.uniform(-0.4, 0.4, len(drawn))  # lengths are whole numbers: dots would hide each other
    for number, shift in zip(drawn.tolist(), jitter.tolist(), strict=True):
        x, y = place(max(0.0, table.lengths[number] + shift), table.scores[number])
        colour = "#1f77b4" if number % 2 == 0 else "#e08214"
        parts.append(f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}" fill-opacity=".35"/>')
    means = []
    for low, high in LENGTHS:
        inside = (table.lengths >= low) & (table.lengths <= (math.inf if high is None else high))
        if inside.any():
            means.append(
                place(float(np.exp(np.log(table.lengths[inside] + 1).mean()) - 1), table.scores[inside].mean())
            )
    parts.append(
        f'<polyline points="{" ".join(",".join(m) for m in means)}" fill="none" stroke="#000" stroke-width="2"/>'
    )
    parts += [f'<circle cx="{x}" cy="{y}" r="4" fill="#000"/>' for x, y in means]
    parts.append(
        f'<text x="{width / 2}" y="{height - 8}" text-anchor="middle">words of the review (logarithmic)</text>'
        f'<text x="14" y="{height / 2}" text-anchor="middle" transform="rotate(-90 14 {height / 2})">grounding '
        "score</text>"
        f'<text x="{width - 20}" y="14" text-anchor="end"><tspan fill="#1f77b4">user_preference</tspan>, '
        f'<tspan fill="#e08214">item_attributes</tspan>, <tspan font-weight="bold">mean</tspan></text></svg>'
    )
    return "\n".join(parts)


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows[1:])
    return f"<table><tr>{head}</tr>\n{body}</table>"


def report(table: Table, title: str, choices: Mapping[str, Counter[str]] | None = None) -> str:
    """The whole report as one HTML page.

    Parameters
    ----------
    table : Table
    title : str
        What was audited.
    choices : mapping of str to Counter, optional
        By half, how often the policy chose what.
    """
    figures = json.loads(SCORER_FILE.read_text(encoding="utf-8"))["figures"]
    held = figures["held_out"]
    both = ungrounded_rate_of_rows(table)
    correlation = rank_correlation(table.lengths, table.scores)
    body = [
        f"<h1>Grounding of {html.escape(title)}</h1>",
        f"<p>Ungrounded: <b>{both}</b> of {both.total:,} halves score below {THRESHOLD}. The scores add up to "
        f"{1 - table.scores.mean():.1%} ungrounded (each counted by its chance). Rank correlation of score and review "
        f"length: {correlation:+.2f}.</p>",
        "<h2>By review length</h2>",
        plot(table),
        _html_table(length_table(table)),
        "<h2>Flags</h2>",
        _html_table(flag_table(table)),
    ]
    if choices is not None:
        rows = [["choice", *RATIONALE_TASKS]]
        for choice in CHOICES:
            rows.append([choice, *(f"{choices[half][choice]:,}" for half in RATIONALE_TASKS)])
        body += ["<h2>What the policy chose</h2>", _html_table(rows)]
    body += [
        "<h2>How far to trust the score</h2>",
        f"<p>On {held['grounded'] + held['not_grounded']} halves judged by hand that its weights had not seen, the "
        f"score reaches a ROC-AUC of {held['roc_auc']:.2f} (95%: {held['interval_95'][0]:.2f} to "
        f"{held['interval_95'][1]:.2f}); at {THRESHOLD} its precision is {held['precision']:.2f} and its recall "
        f"{held['recall']:.2f}. The labels are of one domain (musical instruments) and one small teacher. It reads "
        "words, not logic: a half that turns round what the review says can score high, which the flag "
        "<code>contradicts</code> catches in part.</p>",
    ]
    style = (
        "body{font:15px/1.5 sans-serif;max-width:900px;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}svg{width:100%}"
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Grounding of {html.escape(title)}</title>'
        f"<style>{style}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
