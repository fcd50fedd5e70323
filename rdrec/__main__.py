"""The commands as one program, for those who installed the package: `rdrec train …` is `python train.py …`.

pip install .
rdrec build --reviews reviews.csv --domain mine --output data/mine     # python -m dataset_builder build
rdrec train --config my.yaml
accelerate launch -m rdrec train --config my.yaml
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path

from rdrec.arguments import run
from rdrec.errors import UserError
from rdrec.places import HOME


BUILDER = ("build", "import", "info", "leaks", "time_split")


def usage(scripts: dict[str, Path]) -> str:
    """What each command does."""
    lines = {name: f"python -m dataset_builder {name}" for name in BUILDER}
    for name, script in scripts.items():
        lines[name] = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))).splitlines()[0]
    listed = "\n".join(f"  {name:28} {what}" for name, what in lines.items())
    return f"usage: rdrec COMMAND [flags]; rdrec COMMAND --help lists them\n\n{listed}"


def main() -> int:
    scripts = {script.stem: script for script in sorted(HOME.glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage(scripts))
        return 0
    if name not in (*BUILDER, *scripts):
        near = difflib.get_close_matches(name, [*BUILDER, *scripts], n=1)
        raise UserError(f"{name}: no such command; {f'did you mean {near[0]}?' if near else 'rdrec --help lists them'}")
    if name in BUILDER:
        sys.argv[0] = "rdrec"
        runpy.run_module("dataset_builder", run_name="__main__")
    else:
        sys.argv[:2] = [f"rdrec {name}"]
        runpy.run_path(str(scripts[name]), run_name="__main__")
    return 0


def console() -> None:
    """The entry point of the installed program."""
    run(main)


if __name__ == "__main__":
    console()
