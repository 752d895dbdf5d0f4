"""Is the alarm right? Simulated servers at 30 to 150 % of the rate that each sustains."""

from __future__ import annotations

from collections import defaultdict

import pytest
from tests.stability.loads import (
    END_S,
    EVERY_S,
    LAWS,
    SETTLED_S,
    STABLE_LOADS,
    UNSTABLE_LOADS,
    middle_rate,
    poisson,
    queued,
)

from bidkv.policy import resolve
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import BacklogWatch, QueueingController, StabilityState

ENGINES = (EngineConfig(4096, max_num_seqs=128), EngineConfig(8192, max_num_seqs=256))


class Monitored(Policy):
    """The engine's own order, watched as a live engine watches itself: a sample every five seconds."""

    name = "monitored"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.controller = QueueingController(clock=lambda: self.now_s)
        self.states: list[tuple[float, StabilityState]] = []
        self._admitted_s: dict[str, float] = {}

    def _look(self, engine: EngineView) -> None:
        self.now_s = engine.now_s
        last_s = self.states[-1][0] if self.states else 0.0
        if self.now_s - last_s >= EVERY_S:
            blocks = engine.num_blocks
            state = self.controller.compute_flow_state(
                blocks, blocks, num_waiting=engine.num_waiting, max_num_seqs=engine.max_num_seqs
            )
            self.states.append((self.now_s, state))

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self._look(engine)
        self.controller.record_request_arrival(engine.now_s, request.num_prompt_tokens, "")

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self._admitted_s.setdefault(request.request_id, engine.now_s)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self._look(engine)
        service_s = engine.now_s - self._admitted_s.pop(request.request_id)
        tokens = request.num_prompt_tokens + request.num_output_tokens
        mean_tokens = request.num_prompt_tokens + request.num_output_tokens / 2
        self.controller.record_request_completion(
            engine.now_s, service_s * 1e3, -(-tokens // 16), "", mean_blocks=mean_tokens / 16
        )


def sample_loads(law: str, engine: EngineConfig) -> dict[float, list[StabilityState]]:
    """The settled states at every load, as shares of what the engine sustains of the same requests."""
    profile = load_profile(DEFAULT_PROFILE)
    waiting = queued(law, 2400)
    alone = simulate(waiting, resolve("preempt-evict"), engine, profile).completed
    sustainable_rps = middle_rate([record.finish_s or 0.0 for record in alone])
    states = {}
    for load in (*STABLE_LOADS, *UNSTABLE_LOADS):
        requests = poisson(law, waiting, load, sustainable_rps)
        policy = Monitored()
        simulate(requests, policy, engine, profile)
        states[load] = [state for at_s, state in policy.states if SETTLED_S <= at_s <= END_S]
    return states


@pytest.fixture(scope="module")
def samples() -> dict[float, list[StabilityState]]:
    pooled: dict[float, list[StabilityState]] = defaultdict(list)
    for engine in ENGINES:
        for law in LAWS:
            for load, states in sample_loads(law, engine).items():
                pooled[load] += states
    for load, states in sorted(pooled.items()):
        stable = sum(state.is_stable for state in states) / len(states)
        print(f"at {load:.0%} of the sustainable rate {stable:.1%} of {len(states):,} samples say stable")
    return pooled


@pytest.mark.parametrize("load", STABLE_LOADS)
def test_a_load_up_to_90_percent_is_called_stable(
    samples: dict[float, list[StabilityState]], load: float
) -> None:
    states = samples[load]
    assert len(states) > 500
    assert sum(state.is_stable for state in states) >= 0.99 * len(states)


@pytest.mark.parametrize("load", UNSTABLE_LOADS)
def test_a_load_from_105_percent_on_is_called_unstable(
    samples: dict[float, list[StabilityState]], load: float
) -> None:
    states = samples[load]
    assert len(states) > 500
    assert sum(state.is_stable for state in states) <= 0.05 * len(states)


def test_the_utilization_says_the_same_as_the_alarm(samples: dict[float, list[StabilityState]]) -> None:
    for states in samples.values():
        for state in states:
            assert (state.utilization_rho >= 1.0) >= (not state.is_stable)
            assert state.is_stable == (state.stability_margin_pct >= 0.0) or state.utilization_rho == 1.0
            assert state.utilization_rho == pytest.approx(state.arrival_rate_lambda / state.lambda_critical)
    means = [sum(s.utilization_rho for s in samples[load]) / len(samples[load]) for load in sorted(samples)]
    assert means == sorted(means)
    assert means[0] < 0.35


def test_a_queue_that_is_worked_off_is_not_an_overload() -> None:
    clock = [0.0]
    controller = QueueingController(clock=lambda: clock[0])
    for index in range(2000):  # two leave for each that arrives
        clock[0] = index * 0.5
        if index % 2:
            controller.record_request_arrival(clock[0], 160, "")
        controller.record_request_completion(clock[0], 4000.0, 10, "")
        state = controller.compute_flow_state(1000, 1000, num_waiting=2000 - index, max_num_seqs=64)
    assert state.is_stable


def test_sequences_limit_a_server_with_memory_to_spare() -> None:
    clock = [0.0]
    controller = QueueingController(clock=lambda: clock[0])
    for index in range(200):
        clock[0] = float(index)
        controller.record_request_arrival(clock[0], 160, "")
        controller.record_request_completion(clock[0], 8000.0, 10, "", mean_blocks=5.0)
    state = controller.compute_flow_state(10_000, 10_000, num_waiting=0, max_num_seqs=10)
    assert state.utilization_rho == pytest.approx(0.8, rel=0.02)
    assert state.minimum_stable_blocks == pytest.approx(8 * 5 * 1.15, abs=2)
    state = controller.compute_flow_state(50, 10_000, num_waiting=0, max_num_seqs=10)
    assert state.utilization_rho == pytest.approx(0.8, rel=0.02)
    state = controller.compute_flow_state(45, 10_000, num_waiting=0, max_num_seqs=10)
    assert state.utilization_rho == pytest.approx(8 * 5 / 45, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10, 0, 1), "flow_blocks"),
        ((11, 10, 0, 1), "flow_blocks"),
        ((10, 10, -1, 1), "num_waiting"),
        ((10, 10, 0, 0), "max_num_seqs"),
    ],
)
def test_impossible_counts_are_refused(arguments: tuple[int, int, int, int], message: str) -> None:
    flow_blocks, total_blocks, num_waiting, max_num_seqs = arguments
    with pytest.raises(ValueError, match=message):
        QueueingController().compute_flow_state(
            flow_blocks, total_blocks, num_waiting=num_waiting, max_num_seqs=max_num_seqs
        )
    with pytest.raises(ValueError, match="window_s"):
        BacklogWatch(0.0)
