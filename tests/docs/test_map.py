"""The map of the house, drawn from the imports: rooms of a readable size, imports downwards, no circles."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "bidkv"
FILES = sorted(SRC.rglob("*.py"))
OUTSIDE_ROOMS = {"__init__", "__main__", "_version"}
"""The package itself: it offers names of all rooms, lazily, and runs the command line."""
LARGEST_SHARE = 0.18
LONGEST_FUNCTION = 120
LONGEST_FILE = 450


def find_room(path: Path) -> str:
    """Return the room of a file: the first folder, or the file itself where it stands alone."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def list_imports(path: Path) -> Iterator[str]:
    """Yield the rooms that a file imports from, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: expected absolute imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            room = rest.partition(".")[0]
            if package == "bidkv" and room and ((SRC / room).is_dir() or (SRC / f"{room}.py").exists()):
                yield room


def read_layers() -> list[set[str]]:
    """Return the layers of the import contract, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract for contract in contracts if contract.get("exhaustive"))["layers"]
    return [{name.strip(" ()") for name in layer.replace("|", ":").split(":")} for layer in layers]


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        room = find_room(path)
        if room not in OUTSIDE_ROOMS:
            found.setdefault(room, set()).update(set(list_imports(path)) - OUTSIDE_ROOMS - {room})
    return found


def test_no_room_holds_more_than_a_readable_share_of_the_lines() -> None:
    lines: Counter[str] = Counter()
    for path in FILES:
        lines[find_room(path)] += count_lines(path)
    room, most = lines.most_common(1)[0]
    assert most <= LARGEST_SHARE * lines.total(), f"{room} holds {most / lines.total():.1%} of src"


def test_every_room_stands_in_the_import_contract(arrows: dict[str, set[str]]) -> None:
    assert set(arrows) == set().union(*read_layers())


def test_no_arrow_points_upwards(arrows: dict[str, set[str]]) -> None:
    height = {room: -depth for depth, layer in enumerate(read_layers()) for room in layer}
    upward = [
        f"{room} -> {other}"
        for room, others in arrows.items()
        for other in others
        if height[other] > height[room]
    ]
    assert upward == []
    assert sum(map(len, arrows.values())) > 50  # the imports were found


def test_there_is_no_circle_between_rooms(arrows: dict[str, set[str]]) -> None:
    try:
        order = list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"rooms import each other: {error.args[1]}")
    assert set(order) == set(arrows)


def test_files_and_functions_are_short() -> None:
    too_long = [f"{path.relative_to(ROOT)}" for path in FILES if count_lines(path) > LONGEST_FILE]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    assert not too_long
