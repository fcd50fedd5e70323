"""Command line of the dataset builder.

    python -m dataset_builder build --reviews reviews.json.gz --domain beauty --output data/beauty
    python -m dataset_builder build --extend data/july --reviews august.jsonl --output data/august
    python -m dataset_builder import --reference FOLDER_OR_URL --domain beauty --output data/beauty
    python -m dataset_builder info data/beauty
    python -m dataset_builder leaks data/beauty
    python -m dataset_builder time_split data/mine --output data/mine-by-time

Prints a summary with every skip and its count. Errors are one line on stderr, exit code 2.
"""

import argparse
import shlex
import sys
from pathlib import Path

from rdrec.durable import write_json
from rdrec.errors import DatasetError, UserError, exit_code, printable

from .assemble import PROTOCOLS
from .build import build_tables
from .columns import parse_columns
from .leaks import format_leaks, leaks
from .paper_import import build_tables_from_reference
from .processes import usable_cores
from .tables import Tables, load_tables, write_dataset
from .time_split import split_by_time


SETTINGS = ("protocol", "seed", "num_negatives")  # None where the flag is not given

# Commands that once stood here, and what runs them now.
MOVED = {"sample": "python -m rdrec.sample build", "audit": "python -m rdrec.grounding"}


def summary(tables: Tables) -> str:
    """A few lines on a dataset: counts, protocol, and what was skipped or noted on the way."""
    info, counts = tables.info, tables.info["counts"]
    core = "" if info["min_core"] is None else f", min_core {info['min_core']}"
    texts, distilled = counts["rationales"], counts["with_rationale"]
    lines = [
        f"{info['domain']}: protocol {info['protocol']}, seed {info['seed']}{core}",
        f"  {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions",
    ]
    if before := info.get("extends"):
        parts = [
            f"{before[name]:,} {name} kept, {counts[name] - before[name]:,} new"
            for name in ("users", "items", "interactions")
        ]
        lines.append(f"  extends {before['fingerprint'][:16]}: {'; '.join(parts)}")
    for split, rows in texts.items():
        lines.append(f"  rationales/{split}: {rows:,} rows, {distilled[split]:,} with a rationale")
    for topic, note in info.get("notes", {}).items():
        lines.append(f"  {topic}: {note}")
    for reason, count in info["skipped"].items():
        lines.append(f"  {reason.replace('_', ' ')}: {count:,}")
    lines.append(f"  fingerprint {info['fingerprint'][:16]}")
    return "\n".join(map(printable, lines))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; each command's namespace carries the function that runs it as `run`."""
    parser = argparse.ArgumentParser(prog="python -m dataset_builder", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="commands", required=True)

    written = argparse.ArgumentParser(add_help=False)
    written.add_argument("--output", required=True, help="folder to write")
    written.add_argument("--overwrite", action="store_true", help="replace an earlier build in the folder")
    shared = argparse.ArgumentParser(add_help=False, parents=[written])
    shared.add_argument("--protocol", choices=PROTOCOLS, help="clean closes every leak (default)")
    shared.add_argument("--seed", type=int, help="of ids, splits and candidates (default 0)")
    shared.add_argument("--num_negatives", type=int, help="negatives a user (default 99)")

    build = commands.add_parser("build", parents=[shared], help="from a reviews file")
    build.add_argument("--reviews", required=True, help="file or folder: CSV, TSV, JSON, Parquet, …, also packed")
    build.add_argument("--domain", help="name of the dataset; may be left out with --extend")
    build.add_argument("--extend", metavar="DATASET", help="earlier build whose users and items keep their ids")
    build.add_argument("--columns", help="user=NAME,item=NAME,time=NAME,text=NAME,rating=NAME (or numbers); guessed")
    build.add_argument("--min_rating", type=float, help="leave out reviews with a lower rating, or with none")
    build.add_argument("--keep_repeats", action="store_true", help="keep all purchases of an item, not only the first")
    build.add_argument("--min_core", type=int, help="interactions each user and item must have (default 5)")
    build.add_argument("--rationales", help="distilled rationales, JSON lines or Parquet")
    build.add_argument("--teacher", default="unknown", help="who wrote the rationales, where they do not say")
    build.add_argument("--prompt", default="unknown", help="prompt version, where the rationales do not say")
    build.add_argument("--item_text", help="`ASIN a few words` lines for the catalog")
    build.add_argument("--items", help="file of items with title, brand, categories, description for the catalog")
    build.add_argument("--item_columns", help="item=NAME,title=NAME,brand=NAME,categories=NAME,description=NAME of it")
    build.add_argument("--processes", type=int, help="processes that look through the texts (default: one a core)")
    build.set_defaults(run=run_build)

    take = commands.add_parser("import", parents=[shared], help="from the files of the paper's release")
    take.add_argument("--domain", required=True, help="name of the dataset")
    take.add_argument("--reference", required=True, help="folder or URL that holds sequential.txt")
    take.set_defaults(run=run_import)

    info = commands.add_parser("info", help="summary of a built dataset")
    info.add_argument("dataset", help="folder or dataset repo id")
    info.set_defaults(run=lambda options: print(summary(load_tables(options.dataset))))

    audit = commands.add_parser("leaks", help="what a built dataset gives away of its held-out interactions")
    audit.add_argument("dataset", help="folder or dataset repo id")
    audit.add_argument("--seed", type=int, default=0, help="of the random numberings that ids are compared with")
    audit.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    audit.set_defaults(run=run_leaks)

    by_time = commands.add_parser("time_split", parents=[written], help="hold out what was bought after one moment")
    by_time.add_argument("dataset", help="folder or dataset repo id, of purchases with times")
    by_time.add_argument(
        "--test_from", metavar="DAY", help="as in 2014-03-01 (default: a fifth of the purchases lie after it)"
    )
    by_time.set_defaults(run=run_time_split)
    return parser.parse_args(arguments)


def run_build(options: argparse.Namespace) -> None:
    """Build from reviews, write, and print the summary."""
    tables = build_tables(
        options.reviews,
        domain=options.domain,
        protocol=options.protocol,
        min_core=options.min_core,
        seed=options.seed,
        num_negatives=options.num_negatives,
        rationales=options.rationales,
        teacher=options.teacher,
        prompt=options.prompt,
        item_text=options.item_text,
        extend=options.extend,
        items=options.items,
        item_columns=parse_columns(options.item_columns, "--item_columns"),
        columns=parse_columns(options.columns),
        min_rating=options.min_rating,
        keep_repeats=options.keep_repeats,
        processes=usable_cores() if options.processes is None else options.processes,
    )
    _finish(tables, options)


def run_import(options: argparse.Namespace) -> None:
    """Import the paper's files, write, and print the summary."""
    tables = build_tables_from_reference(
        options.reference,
        domain=options.domain,
        **{name: value for name in SETTINGS if (value := getattr(options, name)) is not None},
    )
    _finish(tables, options)


def run_leaks(options: argparse.Namespace) -> None:
    """Audit a built dataset and print what leaks."""
    tables = load_tables(options.dataset)
    audit = leaks(tables, options.seed)
    if options.output:
        write_json(
            options.output, {"dataset": str(options.dataset), "fingerprint": tables.info["fingerprint"], **audit}
        )
    tested = tables.candidates["test"].num_rows
    print(f"{tables.info['domain']}: protocol {tables.info['protocol']}, {tested:,} test items")
    print(format_leaks(audit))


def run_time_split(options: argparse.Namespace) -> None:
    """Split a built dataset at a moment, write, and print the summary."""
    tables = load_tables(options.dataset)
    if Path(options.output).resolve() == Path(options.dataset).resolve():
        raise DatasetError(f"--output {options.output}: that is the dataset itself, which would be lost: give another")
    try:
        split = split_by_time(tables, options.test_from)
    except DatasetError as error:
        raise DatasetError(f"{options.dataset}: {error}") from error
    _finish(split, options)


def _finish(tables: Tables, options: argparse.Namespace) -> None:
    path = write_dataset(tables, options.output, overwrite=options.overwrite)
    print(summary(tables))
    print(f"written to {path}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 after an error that the user can mend."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> None:
    if arguments and arguments[0] in MOVED:
        raise UserError(f"{arguments[0]}: has moved, run `{MOVED[arguments[0]]} {shlex.join(arguments[1:])}`")
    options = parse(arguments)
    options.run(options)


if __name__ == "__main__":
    sys.exit(main())
