"""What the test at start costs: `.venv-vllm/bin/python -m pytest benchmarks/vllm/test_self_test_bench.py`.

It runs once for each engine. Read the median; nothing here has a limit that fails, since machines differ.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.vllm.cases import EngineShape
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler

from bidkv.adapters.vllm import self_test


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("options", [{}, {"prefix_caching": True}, {"scheduling_policy": "priority"}])
def test_at_start(benchmark, base, options):
    class Captured(base):
        def __init__(self, **arguments: Any) -> None:
            self.arguments = arguments

    shape = EngineShape(num_blocks=5_000, max_num_seqs=256, max_num_batched_tokens=2048, **options)
    captured: Any = build_scheduler(shape, Captured)

    def run() -> str | None:
        self_test._results.clear()
        return self_test.find_mismatch(base, (), captured.arguments)

    assert benchmark(run) is None
