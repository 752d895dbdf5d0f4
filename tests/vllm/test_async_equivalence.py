"""Asynchronous scheduling: the simulator does what the real scheduler does in the real engine core's loop."""

from __future__ import annotations

import pytest
from tests.vllm.lagged import Served, lagged_case, serve_lagged, simulate_lagged

from bidkv.policy import resolve
from bidkv.policy.parts.classes import WithinClasses

POLICIES = (None, "preempt-evict-sjf", "largest-first", "bidkv", "lcf")
"""None is plain vLLM, without the adapter."""

KINDS = {
    "plain": {},
    "prefix caching": {"prefix_caching": True},
    "priority": {"scheduling_policy": "priority"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_simulator_repeats_asynchronous_scheduling(kind: str, campaign: bool) -> None:
    """Tokens and victims of every step and the time of every completion are equal."""
    victims: dict[str | None, list[tuple[str, ...]]] = {policy: [] for policy in POLICIES}
    count = 200 if campaign else 12 if kind == "priority" else 30
    for seed in range(count):
        case = lagged_case(seed, **KINDS[kind])
        for policy in POLICIES:
            real = serve_lagged(case, policy)
            inside = resolve(policy or "preempt-evict")
            simulated = simulate_lagged(case, WithinClasses(inside) if kind == "priority" else inside)
            assert simulated.steps == real.steps, (
                f"seed {seed}, {policy}: {first_difference(simulated, real)}"
            )
            assert list(simulated.finish_s.items()) == list(real.finish_s.items()), f"seed {seed}, {policy}"
            victims[policy].append(tuple(victim for step in real.steps for victim in step.preempted))
    # Without pressure there is nothing to compare, and policies that choose alike prove little.
    assert sum(map(bool, victims[None])) >= 0.7 * count
    assert len({tuple(chosen) for chosen in victims.values()}) == len(POLICIES)


def first_difference(left: Served, right: Served) -> str:
    """The first step in which two runs differ."""
    pairs = enumerate(zip(left.steps, right.steps, strict=False))
    return next((f"step {i}: {a} and {b}" for i, (a, b) in pairs if a != b), "lengths")
