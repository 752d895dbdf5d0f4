"""Published rules about who enters and how much stays free."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest, steady_profile, workloads

from bidkv.policy import PolicySpecError, resolve
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate


def entered(policy: Policy, engine: FakeEngine) -> list[str]:
    """Admit until nobody is named."""
    order = []
    while (request := policy.select_next(engine)) is not None:
        order.append(request.request_id)
        policy.on_admit(request, engine)
    return order


def test_priority_admits_by_importance_then_arrival() -> None:
    engine, policy = FakeEngine(), resolve("priority")
    late, early, vital = (
        FakeRequest("late", arrival_s=2.0),
        FakeRequest("early", arrival_s=1.0),
        FakeRequest("vital", arrival_s=3.0, priority=-5),
    )
    for request in (late, early, vital):
        policy.on_arrival(request, engine)
    assert entered(policy, engine) == ["vital", "early", "late"]
    policy.on_preempt(early, 10, engine)
    policy.on_preempt(late, 10, engine)
    policy.on_finish(early, engine, completed=False)
    assert entered(policy, engine) == ["late"]


@given(requests=workloads())
@settings(max_examples=25, deadline=None)
def test_priority_schedules_as_the_engines_own_priority_scheduling(requests: list[WorkloadRequest]) -> None:
    # Without pressure only admission counts. Equal arrivals are told apart by name in vLLM: none here.
    apart = [replace(r, arrival_s=r.arrival_s + index * 1e-3) for index, r in enumerate(requests)]
    plain = EngineConfig(num_gpu_blocks=5000, max_num_seqs=2)
    own = EngineConfig(num_gpu_blocks=5000, max_num_seqs=2, scheduling_policy="priority")
    by_rule = simulate(apart, resolve("priority"), plain, steady_profile(), backend="python")
    by_engine = simulate(apart, resolve("preempt-evict"), own, steady_profile(), backend="python")
    assert by_rule.records == by_engine.records


@given(requests=workloads(), share=st.sampled_from([0.0, 0.05, 0.3]))
@settings(max_examples=40, deadline=None)
def test_watermark_is_the_engines_own(requests: list[WorkloadRequest], share: float) -> None:
    plain = EngineConfig(num_gpu_blocks=20, block_size=8, max_num_seqs=4)
    own = EngineConfig(num_gpu_blocks=20, block_size=8, max_num_seqs=4, watermark=share)
    by_rule = simulate(requests, resolve(f"watermark:f={share}"), plain, steady_profile(), backend="python")
    by_engine = simulate(requests, resolve("preempt-evict"), own, steady_profile(), backend="python")
    assert by_rule.records == by_engine.records
    assert by_rule.totals == by_engine.totals


@pytest.mark.parametrize("share", ["-0.1", "1.0"])
def test_an_impossible_watermark_is_refused(share: str) -> None:
    with pytest.raises(PolicySpecError, match=r"f must be in \[0, 1\)"):
        resolve(f"watermark:f={share}")


def test_hrrn_lets_a_short_one_pass_until_the_long_one_waited_long_enough() -> None:
    policy = resolve("hrrn")
    long = FakeRequest("long", num_prompt_tokens=1000, arrival_s=0.0)
    short = FakeRequest("short", num_prompt_tokens=10, arrival_s=100.0)
    engine = FakeEngine(now_s=100.5)
    for request in (long, short):
        policy.on_arrival(request, engine)
    assert policy.select_next(engine) is long  # 100.5 / 1000 against 0.5 / 10
    engine.now_s = 102.0
    assert policy.select_next(engine) is short  # 102 / 1000 against 2 / 10
    policy.on_admit(short, engine)
    assert policy.select_next(engine) is long
    policy.on_finish(long, engine, completed=False)
    assert policy.select_next(engine) is None


@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 90)), min_size=1, max_size=30),
    now_s=st.integers(90, 200),
)
@settings(deadline=None)
def test_hrrn_names_the_highest_ratio_within_the_width_of_a_queue(
    sizes: list[tuple[int, int]], now_s: int
) -> None:
    policy, engine = resolve("hrrn"), FakeEngine(now_s=float(now_s))
    waiting = [
        FakeRequest(f"r{index}", num_prompt_tokens=tokens, arrival_s=float(arrival))
        for index, (tokens, arrival) in enumerate(sizes)
    ]
    for request in waiting:
        policy.on_arrival(request, engine)
    ratios = {r.request_id: (now_s - r.arrival_s) / r.num_prompt_tokens for r in waiting}
    while (chosen := policy.select_next(engine)) is not None:
        assert ratios[chosen.request_id] >= max(ratios.values()) / 2**0.25 - 1e-12
        policy.on_admit(chosen, engine)
        del ratios[chosen.request_id]
    assert not ratios
