"""Writes the tables of docs/reference/versions.md from what the version matrices found.

    python scripts/version_table.py vllm out/versions/*.xml
    python scripts/version_table.py sglang out/versions/sglang-*.xml

Each file is a JUnit report of one version; its name without the ending is the version. A version that has no
report keeps the row it had.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs/reference/versions.md"

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "vllm": (
        "test_the_engines_own_order_is_kept",
        "test_who_is_named_is_preempted",
        "test_the_simulator_repeats",
        "test_the_self_test_passes",
        "test_retention",
    ),
    "sglang": ("test_retraction", "test_admission", "test_self_test"),
}
"""By engine: what the name of a test, with its module's, holds that counts for a column after the version."""


def read_row(engine: str, report: Path) -> list[str]:
    """Return the cells of one version's row.

    Raises:
        ValueError: the report holds no test.
    """
    version = report.stem.removeprefix("sglang-")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    if not cases:
        raise ValueError(f"{report}: expected test cases, found none")
    cells = [version]
    properties = {
        entry.get("name", ""): entry.get("value", "") for case in cases for entry in case.iter("property")
    }
    if engine == "sglang":
        cells.append(properties.get("missing", "?") or "nothing")
    for column in COLUMNS[engine]:
        cells.append(
            _count([case for case in cases if column in f"{case.get('classname')}.{case.get('name')}"])
        )
    failed = any(_failed(case) for case in cases)
    off = failed or (engine == "sglang" and cells[1] != "nothing")
    return [*cells, "off, one warning" if off else "on"]


def _count(cases: Sequence[ElementTree.Element]) -> str:
    if not cases:
        return "not run"
    bad = sum(_failed(case) for case in cases)
    return f"{len(cases)} of {len(cases)}" if not bad else f"{len(cases) - bad} of {len(cases)}"


def _failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def merge(page: str, engine: str, rows: Sequence[Sequence[str]]) -> str:
    """Return the page with these rows in the engine's table, in order of version.

    Raises:
        ValueError: the page has no table of this engine between its two comments.
    """
    pattern = rf"(<!-- {engine} table -->\n(?:\|.*\n){{2}})((?:\|.*\n)*)(<!-- end -->)"
    found = re.search(pattern, page)
    if found is None:
        raise ValueError(f"expected a table between <!-- {engine} table --> and <!-- end -->, found none")
    lines = {_version_of(line): line for line in found[2].splitlines(keepends=True)}
    for row in rows:
        line = f"| {' | '.join(row)} |\n"
        lines[_version_of(line)] = line
    return page[: found.start(2)] + "".join(lines[key] for key in sorted(lines)) + page[found.end(2) :]


def _version_of(line: str) -> tuple[int, ...]:
    """Read the minor release of a row: rows of one release replace each other (for SGLang, of one patch)."""
    numbers = [int(number) for number in re.findall(r"\d+", line.split("|")[1])]
    return tuple(numbers[:3] if numbers[:2] == [0, 5] else numbers[:2])


def main(engine: str, reports: Sequence[str]) -> None:
    """Read reports, write the page."""
    rows = [read_row(engine, Path(report)) for report in reports]
    PAGE.write_text(merge(PAGE.read_text(encoding="utf-8"), engine, rows), encoding="utf-8")
    print(f"{PAGE.name}: {len(rows)} rows of {engine} written")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
