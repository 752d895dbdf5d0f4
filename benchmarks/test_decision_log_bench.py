"""What watching costs: `pytest benchmarks/test_decision_log_bench.py --benchmark-only`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.test_decisions_bench import full_engine

from bidkv.observability.decision_log import DecisionLog
from bidkv.policy import resolve

RUNNING = (32, 256)


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("logged", [False, True], ids=["no log", "log"])
def test_a_decision(benchmark: Any, tmp_path: Path, logged: bool, running: int) -> None:
    """A step short of one block: everything the controller does, with and without a log."""
    _, engine = full_engine(resolve("bidkv"), running, spare_blocks=0)
    short = engine.block_demand(frozenset()) - 1
    control, engine = full_engine(resolve("bidkv"), running, spare_blocks=short)
    if logged:
        control.observer = DecisionLog(tmp_path / "log")
    assert len(benchmark(lambda: control.before_step(engine))) == 1
    benchmark.extra_info["running"] = running


@pytest.mark.parametrize("logged", [False, True], ids=["no log", "log"])
def test_an_admission(benchmark: Any, tmp_path: Path, logged: bool) -> None:
    control, engine = full_engine(resolve("bidkv"), 256, spare_blocks=64)
    if logged:
        control.observer = DecisionLog(tmp_path / "log")
    request = engine.running[0]
    benchmark(lambda: control.on_admit(request, engine, 0))
    assert control.counters.admissions > 256
