"""The policy in docs/guide/write-a-policy.md runs exactly as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "write-a-policy.md"


def test_the_printed_policy_runs_and_decides(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    script = tmp_path / "take_turns.py"
    script.write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == ["preempt-evict", "lcf", "take-turns"]
    # It decides: another number of preemptions than the engine's own order and than the other policy.
    assert len({row[1] for row in rows}) == 3
    assert all(int(row[1]) > 100 for row in rows)


def test_it_is_ten_lines_at_most() -> None:
    text = PAGE.read_text(encoding="utf-8")
    (policy,) = re.findall(r"^@register\n.*?\n\n\n", text, re.M | re.S)
    assert len([line for line in policy.splitlines() if line.strip()]) <= 10
