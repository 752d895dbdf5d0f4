"""Documented deployments: every one is computed, and the table of the docs is the program's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.planning.block_counts import BlockCount, count_deployments, table

_ROOT = Path(__file__).parents[2]
_FILE = _ROOT / "tests" / "data" / "deployments" / "deployments.json"
_MISSES = {"Qwen3-235B-A22B-FP8", "DeepSeek-R1-Distill-Qwen-14B", "Qwen3.6-35B-A3B-NVFP4"}
"""Deployments that are further off; docs/reference/planning.md says why."""

_COUNTS = count_deployments(_FILE)


@pytest.mark.parametrize(
    "count",
    [count for count in _COUNTS if count.model not in _MISSES],
    ids=lambda c: f"{c.model}-{c.gpu}-{c.server.gpus}-{c.server.kv_cache_dtype}",
)
def test_a_documented_deployment_has_the_tokens_that_its_server_logged(count: BlockCount) -> None:
    assert count.computed == pytest.approx(count.logged, rel=0.05)


def test_the_table_of_the_docs_is_the_one_computed() -> None:
    page = (_ROOT / "docs" / "reference" / "planning.md").read_text(encoding="utf-8")
    assert table(_COUNTS) in page


def test_the_misses_are_still_misses() -> None:
    far = {count.model for count in _COUNTS if abs(count.error) > 0.05}
    assert far == _MISSES
