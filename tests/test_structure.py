"""Who may import whom, read from the source: data flows down a list of rooms, and no room imports one below it.

Nothing is run. Imports inside functions count, for an import that is put off is still a dependency.
"""

import ast
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


# Small helpers for every room. They import nothing of the project but one another.
GROUND_FLOOR = ("rdrec.errors", "rdrec.durable", "rdrec.arguments", "rdrec.memory", "rdrec.places")
# A room may import the ground floor and the rooms above it in this list.
ROOMS = (
    "modeling_rdrec",
    "dataset_builder",
    "rdrec.tasks",
    "rdrec.grounding",
    "rdrec.sample",
    "rdrec.distillation",
    "rdrec.checkpoints",
    "rdrec.training",
    "rdrec.evaluation",
    "rdrec.recommending",
    "rdrec.publishing",
    "rdrec.conversion",
)
# `modeling_rdrec` travels to the Hub alone: these and the standard library are all that it may rely on there.
MODEL_LIBRARIES = {"numpy", "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors"}

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
FILES = sorted(
    path for package in ("modeling_rdrec", "dataset_builder", "rdrec") for path in (ROOT / package).rglob("*.py")
)
PROJECT = {"modeling_rdrec", "dataset_builder", "rdrec", "tests", "benchmarks", "research", "studies", *SCRIPTS}


def module_name(path: Path) -> str:
    """The dotted name of a source file, as `rdrec.tasks.data`; a package's `__init__.py` has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports_of(path: Path) -> set[str]:
    """Full names of the modules that a file imports; `from package import name` gives `package.name` if that is one."""
    found = set()
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module.split(".") if node.module else [])])
            inner = {f"{source}.{alias.name}" for alias in node.names}
            inside = {name for name in inner if is_module(name)}
            found |= inside if inside == inner else inside | {source}
    return found


def room_of(module: str) -> str | None:
    """The room or piece of the ground floor that a module is part of."""
    for room in (*GROUND_FLOOR, *ROOMS):
        if module == room or module.startswith(room + "."):
            return room
    return None


def of_project(module: str) -> bool:
    return module.split(".")[0] in PROJECT


def may_import(room: str) -> set[str]:
    """What files of `room` may import of the project."""
    if room in GROUND_FLOOR:
        return set(GROUND_FLOOR)
    if room == "modeling_rdrec":
        return {room}
    return {*GROUND_FLOOR, *ROOMS[: ROOMS.index(room) + 1]}


def test_every_file_stands_in_a_room():
    # The map of the rooms and the front door stand in none.
    strays = [str(path.relative_to(ROOT)) for path in FILES if room_of(module_name(path)) is None]
    assert sorted(strays) == ["rdrec/__init__.py", "rdrec/__main__.py"]
    assert not imports_of(ROOT / "rdrec" / "__init__.py")
    assert {room_of(module_name(path)) for path in FILES} - {None} == {*GROUND_FLOOR, *ROOMS}


@pytest.mark.parametrize("room", (*GROUND_FLOOR, *ROOMS))
def test_no_room_imports_one_below_it(room):
    allowed = may_import(room)
    upwards = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in FILES
        if room_of(module_name(path)) == room
        for name in sorted(imports_of(path))
        if of_project(name) and room_of(name) not in allowed
    ]
    assert not upwards, "\n".join(upwards)


def test_the_model_relies_on_nothing_that_a_stranger_has_not():
    known = MODEL_LIBRARIES | set(sys.stdlib_module_names) | {"modeling_rdrec"}
    found = {
        f"{path.name} imports {name}"
        for path in FILES
        if room_of(module_name(path)) == "modeling_rdrec"
        for name in imports_of(path)
        if name.split(".")[0] not in known
    }
    assert not found


def test_scripts_import_no_script():
    found = {
        f"{name}.py imports {other}"
        for name in SCRIPTS
        for other in imports_of(ROOT / f"{name}.py")
        if other.split(".")[0] in {*SCRIPTS, "tests", "benchmarks", "research", "studies"}
    }
    assert not found


def test_tests_import_no_benchmark_or_research_and_these_only_the_fakes():
    def imported(folder: str, package: str) -> set[str]:
        found = {name for path in (ROOT / folder).rglob("*.py") for name in imports_of(path)}
        return {name for name in found if name.split(".")[0] == package}

    for folder in ("benchmarks", "research"):
        assert not imported("tests", folder)
        assert {name for name in imported(folder, "tests") if not name.startswith("tests.fakes.")} == set()


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules of which each imports the next and the last the first; empty where there is no such circle."""
    left = {name: set(others) & set(graph) - {name} for name, others in graph.items()}
    while leaves := [name for name, others in left.items() if not others]:
        for name in leaves:
            del left[name]
        left = {name: others - set(leaves) for name, others in left.items()}
    if not left:
        return []
    way = [next(iter(left))]
    while way.count(way[-1]) < 2:
        way.append(min(left[way[-1]]))
    return way[way.index(way[-1]) : -1]


def test_no_circle_of_modules():
    graph = {module_name(path): imports_of(path) for path in FILES}
    assert circle(graph) == []


def test_the_search_finds_what_it_looks_for(tmp_path, monkeypatch):
    """The reader of imports and the finder of circles, on a small tree that has one of each."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    room = tmp_path / "rdrec" / "tasks"
    room.mkdir(parents=True)
    for folder in (room, room.parent):
        (folder / "__init__.py").touch()
    (room / "data.py").write_text("def late():\n    from . import mixture\n    from ..training.loop import train\n")
    (room / "mixture.py").write_text(
        "import os.path\nfrom rdrec.tasks.data import late\nfrom rdrec.tasks import data, x\n"
    )
    assert imports_of(room / "data.py") == {"rdrec.tasks.mixture", "rdrec.training.loop"}
    assert imports_of(room / "mixture.py") == {"os.path", "rdrec.tasks.data", "rdrec.tasks"}
    assert room_of("rdrec.training.loop") == "rdrec.training" and room_of("rdrec.training_else") is None
    graph = {module_name(path): imports_of(path) for path in room.glob("*.py")}
    assert set(circle(graph)) == {"rdrec.tasks.data", "rdrec.tasks.mixture"}
    assert circle({"a": {"b"}, "b": set()}) == []
