"""Command line of the embedded sample.

python -m rdrec.sample build --output sample_data       # build it as a dataset folder
python -m rdrec.sample plant                            # write rationales/planted.parquet anew
python -m rdrec.sample export reviews.jsonl             # its reviews, to distil rationales from
python -m rdrec.sample adopt rationales.parquet         # ship what distill.py made of them
"""

import argparse
import sys
from pathlib import Path

from dataset_builder.tables import load_tables
from rdrec.errors import exit_code

from .build import (
    FILES,
    PLANTED_FILE,
    adopt,
    build_sample,
    export_reviews,
    make_world,
    planted_rationales,
    world_from_info,
    write_rationales,
)
from .ceiling import ceiling_ranks


CUTS = (1, 5, 10)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; each command's namespace carries the function that runs it as `run`."""
    parser = argparse.ArgumentParser(prog="python -m rdrec.sample", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(title="commands", required=True)

    build = commands.add_parser(
        "build",
        help="build the sample, whose best possible ranking is known",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    build.add_argument("--output", required=True, help="folder to write; a folder with this very sample is kept")
    build.add_argument("--protocol", choices=("clean", "published"), default="clean", help="see the dataset card")
    build.add_argument("--seed", type=int, default=0, help="seed of ids, splits and candidates")
    build.add_argument("--rationales", choices=tuple(FILES), default="distilled", help="a small model's, or the truth")
    build.add_argument("--overwrite", action="store_true", help="replace an earlier build")
    build.set_defaults(run=run_build)

    plant = commands.add_parser("plant", help="write the planted rationales that ship")
    plant.set_defaults(run=lambda options: print(plant_rationales()))
    export = commands.add_parser("export", help="write the reviews as JSON lines, to distil rationales from")
    export.add_argument("file", help="file to write")
    export.set_defaults(run=lambda options: print(export_reviews(make_world(), options.file)))
    take = commands.add_parser("adopt", help="ship what distill.py made of the exported reviews")
    take.add_argument("file", help="rationales.parquet of distill.py")
    take.set_defaults(run=lambda options: print(adopt(options.file, make_world())))
    return parser.parse_args(arguments)


def run_build(options: argparse.Namespace) -> None:
    """Build the sample and print its size and how often the best possible ranking hits."""
    folder = build_sample(
        options.output,
        protocol=options.protocol,
        seed=options.seed,
        rationales=options.rationales,
        overwrite=options.overwrite,
    )
    tables = load_tables(folder)
    counts = tables.info["counts"]
    print(f"{folder}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} interactions")
    for task, ranks in ceiling_ranks(world_from_info(tables.info), tables).items():
        print(f"best possible {task}: " + ", ".join(f"hr@{k} {(ranks <= k).mean():.4f}" for k in CUTS))


def plant_rationales() -> Path:
    """Write the planted rationales that ship, and return their path."""
    world = make_world()
    return write_rationales(planted_rationales(world), world, PLANTED_FILE)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 after an error that the user can mend."""
    options = parse(arguments)
    return exit_code(lambda: options.run(options))


if __name__ == "__main__":
    sys.exit(main())
