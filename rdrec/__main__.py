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

from rdrec.arguments import run
from rdrec.errors import UserError
from rdrec.places import HOME


BUILDER = ("build", "import", "info")


def commands() -> dict[str, str]:
    """What each command does, by name."""
    found = {name: f"python -m dataset_builder {name}" for name in BUILDER}
    for script in sorted(HOME.glob("*.py")):
        description = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        found[script.stem] = description.splitlines()[0] if description else ""
    return found


def main() -> int:
    known, name = commands(), sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: rdrec COMMAND [flags]; rdrec COMMAND --help lists them\n")
        print("\n".join(f"  {command:28} {what}" for command, what in known.items()))
        return 0
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UserError(f"{name}: no such command; {f'did you mean {near[0]}?' if near else 'rdrec --help lists them'}")
    if name in BUILDER:
        sys.argv[0] = "rdrec"
        runpy.run_module("dataset_builder", run_name="__main__")
    else:
        sys.argv[:2] = [f"rdrec {name}"]
        runpy.run_path(str(HOME / f"{name}.py"), run_name="__main__")
    return 0


def console() -> None:
    """The entry point of the installed program."""
    run(main)


if __name__ == "__main__":
    console()
