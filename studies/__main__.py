"""Studies from the command line, from the top of the repository.

python -m studies run studies/honest.yaml --dry_run           # what it would cost
taskset -c 0 python -m studies run studies/honest.yaml        # one process a core; stopped, it goes on
python -m studies report studies/honest.yaml                  # tables and plots into docs/evidence/
"""

import argparse
import sys
from pathlib import Path

from rdrec.errors import exit_code

from .report import write_report
from .runner import cost, run_studies
from .study import read_study


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m studies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("run", "make the runs that are not there"),
        ("report", "write tables and plots of those that are"),
    ):
        command = commands.add_parser(name, help=what)
        command.add_argument("study", type=Path, nargs="+", help="YAML files")
        command.add_argument("--runs", type=Path, default=Path("docs/evidence/runs"), help="folder of finished runs")
        if name == "run":
            command.add_argument("--dry_run", action="store_true", help="say what it costs, and end")
            command.add_argument(
                "--work_dir", type=Path, default=Path("runs/studies"), help="folder of unfinished ones"
            )
            command.add_argument("--keep_models", action="store_true", help="do not delete a finished run's weights")
        else:
            command.add_argument("--output", type=Path, default=Path("docs/evidence"), help="folder of the report")
    given = parser.parse_args()
    studies = [read_study(path) for path in given.study]
    if given.command == "report":
        for study in studies:
            print(write_report(study, given.runs, given.output))
    elif given.dry_run:
        print(cost(studies, given.runs)[0])
    else:
        run_studies(studies, given.runs, given.work_dir, given.keep_models)


if __name__ == "__main__":
    sys.exit(exit_code(main))
