"""What the pages of docs/ say about the tree must be so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md"])


def rooms() -> set[str]:
    return {
        path.stem
        for path in (ROOT / "src" / "bidkv").iterdir()
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
    }


def test_the_map_shows_every_room_and_no_other() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = text.split("```text\n")[1].split("```")[0]
    shown = {word for word in re.findall(r"(?:\| )(\w+)", drawing) if word in rooms()}
    assert shown == rooms()
    table = text.split("| room | holds | does not know |")[1].split("\n\n")[0]
    first_cells = [row.split("|")[1] for row in table.splitlines()[2:]]
    listed = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert listed == rooms()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)\)", prose):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for path in re.findall(r"\b((?:src|tests|benchmarks|scripts)/[\w./-]+\.\w+)", text):
        assert (ROOT / path).exists(), path
