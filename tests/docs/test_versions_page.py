"""The page of versions says what the matrix found and what the plug-in supports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripts.version_table import COLUMNS, PAGE, merge, read_row

from bidkv.adapters.vllm.versions import SUPPORTED


def table(engine: str) -> list[list[str]]:
    """The cells of an engine's table, without its head."""
    found = re.search(
        rf"<!-- {engine} table -->\n((?:\|.*\n)+)<!-- end -->", PAGE.read_text(encoding="utf-8")
    )
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()[2:]]


def test_every_supported_version_of_vllm_has_its_row():
    on = [row[0] for row in table("vllm") if row[-1] == "on"]
    assert [".".join(version.split(".")[:2]) for version in on] == list(SUPPORTED)


def test_rows_have_a_cell_for_each_column():
    for engine, columns in COLUMNS.items():
        extra = 3 if engine == "sglang" else 2
        assert {len(row) for row in table(engine)} == {len(columns) + extra}


def report(folder: Path, name: str, *cases: str) -> Path:
    path = folder / name
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")
    return path


def case(name: str, module: str = "tests.vllm.test_equivalence", inside: str = "") -> str:
    return f'<testcase classname="{module}" name="{name}">{inside}</testcase>'


def test_a_report_becomes_a_row(tmp_path):
    path = report(
        tmp_path,
        "0.31.0.xml",
        case("test_the_engines_own_order_is_kept_to_the_letter[a]"),
        case("test_the_engines_own_order_is_kept_to_the_letter[b]"),
        case("test_who_is_named_is_preempted[a]", inside="<failure/>"),
        case("test_anything", module="tests.vllm.test_retention"),
    )
    assert read_row("vllm", path) == [
        "0.31.0", "2 of 2", "0 of 1", "not run", "not run", "1 of 1", "off, one warning",
    ]  # fmt: skip


def test_what_a_version_of_sglang_lacks_is_named(tmp_path):
    lacks = '<properties><property name="missing" value="scheduler.Scheduler.step"/></properties>'
    path = report(
        tmp_path, "sglang-0.5.20.xml", case("test_hooks", module="tests.sglang.test_versions", inside=lacks)
    )
    assert read_row("sglang", path) == [
        "0.5.20", "scheduler.Scheduler.step", "not run", "not run", "not run", "off, one warning",
    ]  # fmt: skip


def test_an_empty_report_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected test cases, found none"):
        read_row("vllm", report(tmp_path, "0.31.0.xml"))


def test_rows_are_replaced_by_release_and_kept_in_order():
    head = "text\n<!-- vllm table -->\n| a | b |\n|---|---|\n"
    page = f"{head}| 0.24.0 | old |\n| 0.31.0 | kept |\n<!-- end -->\nmore\n"
    merged = merge(page, "vllm", [["0.24.1", "new"], ["0.30.0", "between"]])
    assert merged == (
        f"{head}| 0.24.1 | new |\n| 0.30.0 | between |\n| 0.31.0 | kept |\n<!-- end -->\nmore\n"
    )
    with pytest.raises(ValueError, match="expected a table"):
        merge("no table", "vllm", [])
