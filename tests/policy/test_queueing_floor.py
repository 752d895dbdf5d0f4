"""`queueing-floor`: what idle sessions retain ends where the flow of requests needs the memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import resolve
from bidkv.policy.own.queueing_floor import QueueingFloor
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate

PROFILE = load_profile("h100-llama3.1-8b")
ENGINE = EngineConfig(num_gpu_blocks=601, max_num_seqs=32)


def busy(count: int = 400, rate_rps: float = 2.0) -> list[WorkloadRequest]:
    rng, now_s, requests = random.Random(3), 0.0, []
    for index in range(count):
        now_s += rng.expovariate(rate_rps)
        requests.append(WorkloadRequest(f"r{index}", now_s, rng.randint(10, 800), rng.randint(10, 400)))
    return requests


@dataclass
class FakeSessions:
    """Idle sessions by id, the one idle for longest first, with the blocks each retains."""

    blocks: dict[str, int] = field(default_factory=dict)

    @property
    def retained_blocks(self) -> int:
        return sum(self.blocks.values())


def loaded(engine: FakeEngine, rate_rps: float, service_s: float, tokens: int) -> QueueingFloor:
    """A policy that has seen a steady flow: lambda, E[S] and E[blocks] are what is given."""
    policy = QueueingFloor(margin=1.0)
    for index in range(100):
        request = FakeRequest(f"r{index}", num_prompt_tokens=tokens, num_output_tokens=0)
        engine.now_s = index / rate_rps
        policy.on_arrival(request, engine)
        policy.on_admit(request, engine)
        engine.now_s += service_s
        policy.on_finish(request, engine, completed=True)
        engine.now_s -= service_s
    policy.on_preempt(request, 0, engine)
    return policy


def drop_all(policy: QueueingFloor, engine: FakeEngine, sessions: FakeSessions) -> list[str]:
    """Ask until the answer is None, as a controller does; the names dropped, in order."""
    dropped = []
    idle: Any = {name: name for name in sessions.blocks}
    while idle and (chosen := policy.select_drop(idle, engine)) is not None:
        dropped.append(str(chosen))
        del idle[chosen], sessions.blocks[str(chosen)]
    return dropped


@pytest.mark.parametrize("rate_rps", [2.0, 8.0])
def test_without_sessions_it_is_the_engines_own_order(rate_rps: float) -> None:
    requests = busy(rate_rps=rate_rps)
    plain, floor = (
        simulate(requests, resolve(spec), ENGINE, PROFILE) for spec in ("preempt-evict", "queueing-floor")
    )
    assert floor.records == plain.records


def test_idle_sessions_keep_what_the_flow_does_not_need_and_the_longest_idle_goes_first() -> None:
    sessions = FakeSessions({"oldest": 30, "older": 30, "newest": 30})
    engine: Any = FakeEngine(num_blocks=100, sessions=sessions)  # type: ignore[arg-type]
    policy = loaded(engine, rate_rps=5.0, service_s=1.0, tokens=128)  # a floor of 5 * 1 * 8 blocks
    assert drop_all(policy, engine, sessions) == ["oldest"]
    assert engine.num_blocks - sessions.retained_blocks >= 40  # INVARIANT-11


def test_an_idle_server_drops_nothing() -> None:
    sessions = FakeSessions({"a": 40, "b": 50})
    engine: Any = FakeEngine(num_blocks=100, sessions=sessions)  # type: ignore[arg-type]
    policy = loaded(engine, rate_rps=0.5, service_s=1.0, tokens=128)
    assert drop_all(policy, engine, sessions) == []


def test_no_two_targets_are_set_within_the_eviction_interval() -> None:
    sessions = FakeSessions({"a": 40, "b": 50})
    engine: Any = FakeEngine(num_blocks=100, sessions=sessions)  # type: ignore[arg-type]
    policy = loaded(engine, rate_rps=5.0, service_s=1.0, tokens=128)
    assert drop_all(policy, engine, sessions) == ["a"]
    sessions.blocks["c"] = 40
    engine.now_s += 0.05
    policy.on_turn_end(None, engine)  # type: ignore[arg-type]
    assert drop_all(policy, engine, sessions) == []
    engine.now_s += 0.1
    policy.on_turn_end(None, engine)  # type: ignore[arg-type]
    assert drop_all(policy, engine, sessions) == ["b"]


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="safety_margin"):
        resolve("queueing-floor:margin=0.5")
    with pytest.raises(ValueError, match="window_seconds"):
        resolve("queueing-floor:window_s=0")
