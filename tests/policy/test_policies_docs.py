"""The policy printed in the docs runs exactly as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import catalog, resolve

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "policies.md"


def test_the_printed_policy_plays_in_a_tournament(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog, "_CATALOG", dict(catalog._CATALOG))
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    policy, tournament = blocks
    assert len([line for line in policy.splitlines() if line]) <= 10
    namespace: dict[str, object] = {"__name__": "printed"}
    exec(policy, namespace)
    short, long = FakeRequest("short", num_output_tokens=1), FakeRequest("long", num_output_tokens=9)
    assert resolve("fewest-words-first").select_victim([short, long], 1, FakeEngine()) is short
    exec(tournament, namespace)
    printed = capsys.readouterr().out
    assert "fewest-words-first" in printed
    assert "broke" not in printed
