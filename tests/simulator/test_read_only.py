"""A policy can look at requests and at the running list of a simulated engine, and change neither."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig, SglangConfig, simulate

PROFILE = load_profile("h100-llama3.1-8b")
REQUESTS = [WorkloadRequest(f"r{number}", 0.0, 100, 200) for number in range(12)]
VLLM = EngineConfig(num_gpu_blocks=60, max_num_seqs=12)
FACTS = [name for name in vars(RequestView) if isinstance(vars(RequestView)[name], property)]


class Writes(Policy):
    """Writes to everything that it is shown."""

    name = "writes"

    def __init__(self) -> None:
        self.written: list[str] = []
        self.refused: set[str] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> Policy:
        return self

    def _write(self, request: RequestView) -> None:
        for name in (*FACTS, "num_tokens", "of_its_own"):
            try:
                setattr(request, name, 7)
            except AttributeError:
                self.refused.add(name)
            else:
                self.written.append(name)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self._write(request)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        for request in (*engine.running, *engine.waiting()):
            self._write(request)
        running: Any = engine.running
        with suppress(AttributeError, TypeError):  # SGLang's is a copy
            running.clear()
        with suppress(AttributeError, TypeError):
            del running[0]
        return None


@pytest.mark.parametrize(
    ("config", "backend"),
    [(VLLM, "python"), (VLLM, "compiled"), (SglangConfig(max_total_tokens=960, page_size=16), "python")],
)
def test_nothing_can_be_written(config: Any, backend: Any) -> None:
    policy = Writes()
    run = simulate(REQUESTS, policy, config, PROFILE, backend=backend)
    assert policy.written == []
    assert len(FACTS) > 10
    assert policy.refused == {*FACTS, "num_tokens", "of_its_own"}
    own = simulate(REQUESTS, resolve("preempt-evict"), config, PROFILE, backend=backend)
    assert run.totals.preemptions > 0 or isinstance(config, SglangConfig)
    assert run.records == own.records


def test_a_policy_that_writes_is_switched_off_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    class Cheats(Policy):
        def on_arrival(self, request: Any, engine: EngineView) -> None:
            request.num_computed_tokens = 10**6

    run = simulate(REQUESTS, Cheats(), VLLM, PROFILE, backend="python")
    assert run.notes["control"]["failures"] == 1
    assert "property 'num_computed_tokens' of 'SimRequest' object has no setter" in caplog.text
