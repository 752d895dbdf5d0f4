"""The differences that docs/guide/migration.md states as code hold."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/guide/migration.md"


def test_the_differences_hold() -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert block.count("assert ") > 10
    exec(compile(block, str(PAGE), "exec"), {})
