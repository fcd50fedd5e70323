"""How fast `python -m dataset_builder build` is, and how much memory it takes, over generated reviews.

    python -m benchmarks.build --reviews 100000 1000000 --format csv jsonl --work_dir runs/build

Generated are reviews of a made-up shop: users and items by Zipf's law (about 9 reviews a user, 16 an item), texts of a
few sentences whose length spreads as that of Amazon's reviews does (half of them below 60 words, some above 500), in
the columns of Amazon's 2014 release. Beyond a million reviews their texts come again, since writing them takes longer
than building; who buys what and when does not. The same seed gives the same files, which stay in --work_dir.

Each build runs in a process of its own. Printed are its wall time, the CPU seconds of it and its helpers, rows/s of the
whole and of each step (as its progress bars tell), and the most memory that all its processes held at one moment (a
page that several of them share counts once). Pin it to the cores that are meant: `taskset -c 0,1 python -m …`.
"""

import argparse
import csv
import json
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rdrec.durable import write_json
from rdrec.errors import exit_code

from .watching import watched


COLUMNS = ("reviewerID", "asin", "helpful", "reviewText", "overall", "summary", "unixReviewTime", "reviewTime")
_BAR = re.compile(r"^([a-z ]+): .* ([0-9.]+) rows/s\]$", re.MULTILINE)
BLOCK = 100_000  # rows generated at once
TEXTS = 1_000_000  # made up before they come again
USERS, ITEMS = 9, 16  # reviews a user and an item, on average
SUBJECTS = (
    "strap cable stand pedal sound finish string tuner case knob battery amp mic screen handle bottle scent cream "
    "brush lotion color button lid motor lens charger pocket zipper sole fabric wheel hinge blade filter cushion "
    "magnet cover speaker adapter display keyboard hose pump valve mirror label print recipe chapter story album "
    "voice melody plot"
).split()
OPINIONS = (
    "great good nice sturdy cheap flimsy solid perfect terrible bulky clean quiet loud soft heavy reliable handy awful "
    "bright dull smooth rough tight weak strong comfortable expensive affordable useful disappointing"
).split()
VERBS = "is was feels looks seems works has does stays became".split()
FILLER = (
    "I bought this for my brother last month and it arrived on time with no trouble at all we used it every day since "
    "then although not quite what was expected from the picture because another one broke after a week so far still "
    "holding up well enough considering price you get three in box they fit inside drawer when closed maybe next year"
).split()


def words_of(rng: np.random.Generator, count: int) -> list[str]:
    """Rare words, as names and misspellings are: `count` of them, drawn letter by letter."""
    letters = np.array(list("etaoinshrdlu"))
    return ["".join(rng.choice(letters, size=size)) for size in rng.integers(3, 11, size=count)]


def sentence(pick: Iterator[float], rare: list[str]) -> str:
    """One made-up sentence; `pick` gives numbers from 0 to 1."""

    def one(words: list[str]) -> str:
        return words[int(next(pick) * len(words))]

    middle = " ".join(one(rare) if next(pick) < 0.06 else one(FILLER) for _ in range(int(next(pick) * 16)))
    kind = next(pick)
    if kind < 0.4:
        return f"The {one(SUBJECTS)} {one(VERBS)} {one(OPINIONS)}, and {middle}."
    if kind < 0.6:
        return f"{middle.capitalize()} a {one(OPINIONS)} {one(SUBJECTS)}!"
    if kind < 0.7:
        return f"It's the {one(OPINIONS)} {one(SUBJECTS)} &quot;of {one(rare)}&quot; I've had... {middle}."
    return f"{middle.capitalize()} {one(rare)}."


def zipf(rng: np.random.Generator, kinds: int, exponent: float, size: int) -> np.ndarray:
    """`size` draws from 0 to kinds - 1, the k-th with weight 1 / (k + 20) ** exponent."""
    weights = np.cumsum(1.0 / (np.arange(kinds) + 20) ** exponent)
    return np.searchsorted(weights, rng.random(size) * weights[-1])


def reviews(n: int, seed: int) -> Iterator[dict]:
    """Yield n made-up reviews."""
    rare = words_of(np.random.default_rng([seed, 0]), 40_000)
    texts: list[str] = []
    for block, start in enumerate(range(0, n, BLOCK), start=1):
        rng = np.random.default_rng([seed, block])
        size = min(BLOCK, n - start)
        users, items = zipf(rng, n // USERS + 1, 0.5, size), zipf(rng, n // ITEMS + 1, 0.7, size)
        times = rng.integers(1_000_000_000, 1_400_000_000, size=size)
        stars = rng.choice(5, size=size, p=[0.06, 0.06, 0.1, 0.2, 0.58]) + 1
        if start < TEXTS:
            lengths = np.clip(rng.lognormal(1.7, 0.75, size=size), 1, 120).astype(int)
            draws = iter(rng.random(int(lengths.sum()) * 60).tolist())
            texts += (" ".join(sentence(draws, rare) for _ in range(length)) for length in lengths.tolist())
        for place, (user, item, when, star) in enumerate(zip(*(a.tolist() for a in (users, items, times, stars)))):
            text = texts[(start + place) % TEXTS]
            day = time.strftime("%m %d, %Y", time.gmtime(when))
            title = text[:30].rpartition(" ")[0]
            yield dict(zip(COLUMNS, (f"A{user:012X}", f"B{item:09X}", [0, 0], text, float(star), title, when, day)))


def generate(folder: Path, n: int, form: str, seed: int) -> Path:
    """The file of n reviews, made unless it is there."""
    path = folder / f"reviews-{n}-{seed}.{form}"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "w", encoding="utf-8", newline="") as stream:
        if form == "csv":
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(reviews(n, seed))
        else:
            stream.writelines(json.dumps(row) + "\n" for row in reviews(n, seed))
    unfinished.rename(path)
    return path


def measure(path: Path, flags: list[str]) -> dict:
    """Build a dataset from a file in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="rdrec-build-", dir=path.parent) as work:
        command = [sys.executable, "-m", "dataset_builder", "build", "--domain", "made_up", *flags]
        found = watched([*command, "--reviews", str(path), "--output", f"{work}/built"])
        info = json.loads(Path(work, "built", "build_info.json").read_text(encoding="utf-8"))
    return {
        "file": path.name,
        "wall_s": found.wall_s,
        "cpu_s": found.cpu_s,
        "peak_mb": found.peak_mb,
        "steps": steps_of(found.stderr),
        "interactions": info["counts"]["interactions"],
        "fingerprint": info["fingerprint"],
    }


def steps_of(bars: str) -> dict[str, int]:
    """Rows/s of each step, by its progress bar's last words."""
    return {name.strip(): round(float(rate)) for name, rate in _BAR.findall(bars.replace("\r", "\n"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", nargs="+", type=int, default=[100_000], help="reviews to generate")
    parser.add_argument("--format", nargs="+", choices=("csv", "jsonl"), default=["csv"], help="of the files")
    parser.add_argument("--seed", type=int, default=0, help="of the reviews")
    parser.add_argument("--work_dir", type=Path, required=True, help="where the generated files are kept")
    parser.add_argument("--flags", default="", help="further flags of the build, in one word: --flags='--min_core 3'")
    parser.add_argument("--output", type=Path, help="write the figures here, too, as JSON")
    arguments = parser.parse_args()
    measured = []
    for n in arguments.reviews:
        for form in arguments.format:
            found = measure(generate(arguments.work_dir, n, form, arguments.seed), shlex.split(arguments.flags))
            measured.append(found := {"reviews": n, "rows_per_s": round(n / found["wall_s"]), **found})
            print(json.dumps(found), flush=True)
    if arguments.output:
        write_json(arguments.output, measured)


if __name__ == "__main__":
    sys.exit(exit_code(main))
