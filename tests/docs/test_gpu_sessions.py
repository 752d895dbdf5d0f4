"""The session runs on real GPUs stand in docs/results/sessions.md as the commands print them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.gpu_host.session_pairs import main

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"


@pytest.mark.parametrize(
    ("gpu", "profile"),
    [
        ("h100", "h100-llama3.1-8b-async"),
        ("h200", str(DATA / "h200/h200-llama3.1-8b-scaled.json")),
    ],
)
def test_the_tables_are_what_the_command_prints(
    gpu: str, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(DATA / gpu / "session-pairs"), "--profile", profile]) == 0
    printed = capsys.readouterr().out.strip()
    page = (ROOT / "docs/results/sessions.md").read_text(encoding="utf-8")
    table = page.split(f"<!-- {gpu}-sessions: begin -->")[1].split(f"<!-- {gpu}-sessions: end -->")[0]
    assert table.strip() == printed
