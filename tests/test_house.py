"""The house: arrows between the rooms of helpers/ go down, and no import is hidden."""

import ast
import graphlib
from pathlib import Path

import pytest

from helpers import REPO

HELPERS = REPO / "helpers"
# From the ground up. A room may import from its own floor's room and from the floors below it.
FLOORS = [
    ["__init__"],
    ["tiny_model", "gpu_memory"],
    ["display", "verdicts"],
    ["engine"],
    ["workloads"],
    ["measure"],
    ["server"],
    ["results"],
    ["lessons"],
    ["planning"],
    ["run"],
]
NOTEBOOKS = ("review", "advanced_features", "reading_notes", "server_mode")
MODULES = sorted(HELPERS.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """Every module of helpers that this one imports, wherever in the file the import stands."""
    me = name_of(path).split(".")
    package = me if path.name == "__init__.py" else me[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "helpers"}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            if base.split(".")[0] == "helpers":
                inner = {f"{base}.{alias.name}" for alias in node.names}
                found |= {name if name in NAMES else base for name in inner}
    return found - {name_of(path)}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_room_has_a_floor():
    rooms = {room(name) for name in NAMES}
    assert rooms == {one for rooms_ in FLOORS for one in rooms_}, "helpers/ and FLOORS differ"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows_go_down(path):
    me = name_of(path)
    up = [
        other for other in imports_of(path) if room(other) != room(me) and floor(other) >= floor(me)
    ]
    assert not up, f"{me} imports from a floor that is not below its own: {up}"


def test_there_is_no_circle_of_modules():
    graph = {name: imports_of(path) & NAMES.keys() for name, path in NAMES.items()}
    for name in graph:  # a package's __init__ hands on names: its own modules come before it
        graph[name] -= {name.rsplit(".", 1)[0]}
    tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_import_is_hidden(path):
    source = path.read_text(encoding="utf-8")
    assert 'sys.modules.get("helpers' not in source and "import_module(" not in source


def lesson(module: str) -> str | None:
    """The notebook whose room the module is in; None for what all lessons share."""
    parts = module.split(".")
    return parts[2] if parts[1:2] == ["lessons"] and parts[2:3] and parts[2] in NOTEBOOKS else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_lessons_do_not_look_into_each_other(path):
    me = lesson(name_of(path))
    others = [other for other in imports_of(path) if me and lesson(other) not in (None, me)]
    assert not others, f"{name_of(path)} imports another notebook's words: {others}"
