"""The replicas that a server's load needs: right at every load, steady near the target, and additive."""

from __future__ import annotations

import math

import pytest
from tests.stability.loads import END_S, SETTLED_S, middle_rate, poisson, queued
from tests.stability.test_alarm import Monitored

from bidkv.policy import resolve
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import TARGET_LOAD, ReplicaAdvisor, StabilityState


class Advised(Monitored):
    """A server that is watched and advised as a live one is."""

    def __init__(self) -> None:
        super().__init__()
        self.advisor = ReplicaAdvisor()
        self.advice: list[tuple[float, float, float]] = []
        self._arrived = 0

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self._arrived += 1
        super().on_arrival(request, engine)

    def _look(self, engine: EngineView) -> None:
        seen = len(self.states)
        super()._look(engine)
        if len(self.states) > seen:
            self.advisor.update(
                engine.now_s,
                self.states[-1][1],
                is_known=self.controller.service_time().enough,
                arrivals=self._arrived,
                steps=engine.num_steps,
                tokens=engine.num_scheduled_tokens,
                running=engine.num_running,
                waiting=engine.num_waiting,
                token_budget=engine.max_num_batched_tokens,
            )
            self.advice.append((engine.now_s, self.advisor.load, self.states[-1][1].utilization_rho))


def mean_advice(law: str, engine: EngineConfig, load: float) -> tuple[float, float]:
    """The mean load that was found, and the mean of what the controller calls utilization."""
    profile = load_profile(DEFAULT_PROFILE)
    waiting = queued(law, 1600)
    alone = simulate(waiting, resolve("preempt-evict"), engine, profile).completed
    sustainable_rps = middle_rate([record.finish_s or 0.0 for record in alone])
    policy = Advised()
    simulate(poisson(law, waiting, load, sustainable_rps), policy, engine, profile)
    seen = [advice for advice in policy.advice if SETTLED_S <= advice[0] <= END_S]
    return tuple(math.fsum(advice[i] for advice in seen) / len(seen) for i in (1, 2))


@pytest.mark.parametrize(
    ("law", "blocks", "most"),
    [("uniform-1-1", 4096, 128), ("arxiv", 27_949, 256), ("code", 27_949, 256)],
)
def test_the_load_is_found_where_memory_in_use_tells_little(law: str, blocks: int, most: int) -> None:
    engine = EngineConfig(blocks, max_num_seqs=most)
    found = {load: mean_advice(law, engine, load) for load in (0.5, 0.8, 1.2)}
    print(law, blocks, found)
    assert 0.25 < found[0.5][0] < 0.65
    assert 0.65 < found[0.8][0] < 0.95
    assert found[1.2][0] > 1.0
    # What is in use is far below it: half of the load or less where prompts bind.
    assert found[0.8][0] > 1.15 * found[0.8][1]


def state(filled: float, *, rate: float = 10.0) -> StabilityState:
    return StabilityState(rate, rate / filled, 50.0, filled, filled < 1.0, rate / filled, 100, 0.0)


class Fed:
    """An advisor of a server whose steps take twice as long when it is full, fed at a steady rate."""

    def __init__(self, capacity: float = 10.0) -> None:
        self.advisor = ReplicaAdvisor()
        self._capacity = capacity
        self._now_s = 0.0
        self._arrivals = 0.0
        self._steps = 0

    def run(self, rate: float, seconds: int, *, waiting: int = 0) -> float:
        for _ in range(seconds):
            self._now_s += 1.0
            self._arrivals += rate
            load = rate / self._capacity
            filled = load if load >= 1.0 else load / (2.0 - load)
            self._steps += round(60 / (1.0 + min(filled, 1.0)))
            self.advisor.update(
                self._now_s,
                state(filled, rate=rate),
                is_known=True,
                arrivals=round(self._arrivals),
                steps=self._steps,
                tokens=0,
                running=round(100 * min(filled, 1.0)),
                waiting=waiting,
                token_budget=2048,
            )
        return self.advisor.desired


def test_a_load_near_the_target_needs_exactly_one_replica() -> None:
    fed = Fed()
    fed.run(7.0, 600)
    assert fed.advisor.desired == 1.0
    for rate in (6.6, 7.4, 7.0, 7.7, 6.2):
        assert fed.run(rate, 300) == 1.0


def test_a_load_beyond_reach_must_come_halfway_back() -> None:
    fed = Fed()
    fed.run(7.0, 900)
    assert fed.run(9.5, 900) > 1.1
    outside = fed.run(7.8, 900)
    assert outside > 1.0  # within reach had it come from inside
    assert fed.run(7.0, 900) == 1.0


def test_a_queue_must_be_worked_off() -> None:
    fed = Fed()
    fed.run(7.0, 600)
    assert fed.run(7.0, 10, waiting=1200) > 1.5


def test_requests_that_move_to_another_server_change_no_sum() -> None:
    """At 600 s half of the requests go to a server that has just started."""
    first, second = Fed(), Fed()
    alone = [first.run(16.0, 600), first.advisor.load][1]
    for _ in range(30):
        first.run(8.0, 10)
        second.run(8.0, 10)
        together = first.advisor.load + second.advisor.load
        # What a server sustains is learned anew at the new load, with the time constant of three minutes.
        assert 0.7 * alone < together < 1.3 * alone


def test_nothing_is_said_before_anything_is_known() -> None:
    advisor = ReplicaAdvisor()
    for second in range(10):
        figure = advisor.update(
            float(second), state(0.5), is_known=False, arrivals=second, steps=50 * second, tokens=0,
            running=3, waiting=0, token_budget=2048,
        )  # fmt: skip
    assert figure == 0.0


def test_updates_within_a_second_are_left_out() -> None:
    fed = Fed()
    fed.run(7.0, 100)
    before = fed.advisor.load
    now_s = fed._now_s + 0.5
    fed.advisor.update(
        now_s, state(0.9), is_known=True, arrivals=10**6, steps=10**6, tokens=0, running=5, waiting=0,
        token_budget=2048,
    )  # fmt: skip
    assert fed.advisor.load == before


@pytest.mark.parametrize("target", [0.0, 1.0, math.nan])
def test_a_target_is_a_share(target: float) -> None:
    with pytest.raises(ValueError, match="target_load"):
        ReplicaAdvisor(target)
    assert 0.0 < TARGET_LOAD < 1.0
