"""The session runs on real GPUs stand in docs/results/sessions.md as the commands print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.gpu_host.session_pairs import main

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"


@pytest.mark.parametrize(
    ("runs", "section", "options"),
    [
        ("h100/session-pairs", "h100-sessions", ["--profile", "h100-llama3.1-8b-async"]),
        (
            "h200/session-pairs",
            "h200-sessions",
            ["--profile", str(DATA / "h200/h200-llama3.1-8b-scaled.json")],
        ),
        (
            "h200/session-pairs-2",
            "h200-present",
            ["--profile", str(DATA / "h200/h200-llama3.1-8b-scaled.json")],
        ),
        ("h200/offloading", "h200-offloading", []),
    ],
)
def test_the_tables_are_what_the_command_prints(
    runs: str, section: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DATA / runs), *options]) == 0
    printed = capsys.readouterr().out.strip()
    page = (ROOT / "docs/results/sessions.md").read_text(encoding="utf-8")
    table = page.split(f"<!-- {section}: begin -->")[1].split(f"<!-- {section}: end -->")[0]
    assert table.strip() == printed
