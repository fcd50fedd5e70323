"""Flags of the scripts: a dataclass becomes `--flags`, a YAML file gives their defaults, errors are one line.

recipe = parse_arguments(Recipe, "Train RDRec.", argv)     # --config recipes/beauty.yaml --learning_rate 1e-3
if __name__ == "__main__":
    run(main)
"""

import dataclasses
import difflib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from transformers import HfArgumentParser

from .durable import write_text
from .errors import UserError, exit_code


T = TypeVar("T")


class _Parser(HfArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message} (see --help)")


def parse_arguments(kind: type[T], description: str, argv: Sequence[str] | None = None) -> T:
    """Read a dataclass from the command line; `--config FILE.yaml` gives values that flags win over.

    Parameters
    ----------
    kind : dataclass type
        Its fields are the flags; `metadata={"help": …}` is their help. A field that holds a mapping is a `str` of
        JSON; in YAML it may be written as a mapping. A class attribute `INSTEAD_OF` names, by field, another whose
        value in the file the field's flag wins over, too.
    description : str
        First lines of `--help`.
    argv : sequence of str, optional
        Default: the process's arguments.

    Raises
    ------
    UserError
        For an unknown key of the file (with the nearest known one), a value of the wrong type, or an unknown flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _Parser(kind, description=description, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with any of these settings; flags win over it")
    # The file's values are read as flags that stand before the user's: both pass the same checks, the last one wins.
    path = None
    for place, word in enumerate(argv):
        if word == "--config":
            path = argv[place + 1] if place + 1 < len(argv) else None
        elif word.startswith("--config="):
            path = word.split("=", 1)[1]
    known = {field.name: field for field in dataclasses.fields(kind)}
    flags = {word.lstrip("-").split("=")[0].replace("-", "_") for word in argv if word.startswith("--")}
    replaced = {other for name, other in getattr(kind, "INSTEAD_OF", {}).items() if name in flags}
    from_file = [] if path is None else _flags_of_file(Path(path), known, replaced)
    values = vars(parser.parse_args(from_file + argv))
    values.pop("config")
    return kind(**{name: values[name] for name in known})


def _flags_of_file(path: Path, known: dict[str, dataclasses.Field], replaced: set[str]) -> list[str]:
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: write one `key: value` a line")
    flags: list[str] = []
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            mend = f"did you mean {near[0]!r}?" if near else "--help lists the keys"
            raise UserError(f"{path}: unknown key {key!r}: {mend}")
        if isinstance(value, bool) and known[key].type is not bool:
            raise UserError(
                f'{path}: {key}: YAML reads this as {value}, put it in quotes: "{"yes" if value else "no"}"'
            )
        if value is None and known[key].default is not None:
            raise UserError(f"{path}: {key}: has no value, give one or leave the line out")
        if value is None or key in replaced:
            continue
        if isinstance(value, list):
            flags += [f"--{key}", *(str(part) for part in value)]
        else:
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict | bool) else value}")
    return flags


def write_yaml(values: dict, path: Path) -> None:
    """Write settings as a file that `--config` reads."""
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave with its exit code; what the user can mend is printed as one line, code 2."""
    sys.exit(exit_code(main))
