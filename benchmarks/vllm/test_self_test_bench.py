"""What the test at start costs: `.venv-vllm/bin/python -m pytest benchmarks/vllm/test_self_test_bench.py`.

It runs once for each engine, as the first of these does. Read the others' median; nothing here has a limit
that fails, since machines differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.vllm.cases import EngineShape
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler

from bidkv.adapters.vllm import self_test

SHAPE = EngineShape(num_blocks=5_000, max_num_seqs=256, max_num_batched_tokens=2048)


def make_run(base: type[Any], shape: EngineShape) -> Callable[[], str | None]:
    """What an engine does before it makes its scheduler: the test on what the scheduler is made of."""

    class Captured(base):
        def __init__(self, **arguments: Any) -> None:
            self.arguments = arguments

    captured: Any = build_scheduler(shape, Captured)

    def run() -> str | None:
        self_test._results.clear()
        return self_test.find_mismatch(base, (), captured.arguments)

    return run


def test_the_first_in_a_process(benchmark):
    """As an engine has it: once, with nothing warm but what vLLM has loaded."""
    assert benchmark.pedantic(make_run(Scheduler, SHAPE), rounds=1, iterations=1) is None


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("options", [{}, {"prefix_caching": True}, {"scheduling_policy": "priority"}])
def test_at_start(benchmark, base, options):
    assert benchmark(make_run(base, replace(SHAPE, **options))) is None
