"""The pair of session runs on an H100 stands in docs/results/sessions.md as the command prints it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.gpu_host.session_pairs import main

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests/data/h100/session-pairs"


def test_the_tables_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(KEPT), "--profile", "h100-llama3.1-8b-async"]) == 0
    printed = capsys.readouterr().out.strip()
    page = (ROOT / "docs/results/sessions.md").read_text(encoding="utf-8")
    assert (
        page.split("<!-- h100-sessions: begin -->")[1].split("<!-- h100-sessions: end -->")[0].strip()
        == printed
    )
