"""The real scheduler, the adapter and the simulator do the same thing, step by step."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.vllm.cases import Case, Step, random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, run_case
from tests.vllm.ours import run_ours
from tests.vllm.simulated import simulate_case

from bidkv.policy import resolve
from bidkv.policy.parts.classes import WithinClasses
from vllm import __version_tuple__

LONE_PREFILL_IS_WHOLE = BUDGET_COMES_FIRST = __version_tuple__[:2] >= (0, 31)
"""Since 0.31 a long prefill is not cut while its request is alone, and nobody is asked who enters once the
step's tokens are spent; the simulator does as the newer ones."""

POLICIES = ("preempt-evict", "preempt-evict-sjf", "static-random", "largest-first", "bidkv", "lcf")
OTHER_POLICIES = (
    "fair",
    "fast",
    "on-time",
    "most-remaining",
    "pr-56897",
    "priority",
    "sglang_default",
    "slack_aware",
)
COUNT_QUESTIONS = () if BUDGET_COMES_FIRST else ("fast", "on-time")
"""A head that does not fit counts how often the answer was somebody else."""

KINDS = {
    "plain": {},
    "prefix caching": {"prefix_caching": True},
    "priority": {"scheduling_policy": "priority"},
}
NOT_SIMULATED = {(0, 24): "prefix caching", (0, 33): "priority"}
"""What a version does differently from the one that the simulator follows (docs/reference/versions.md)."""
SIMULATED = [kind for kind in KINDS if kind != NOT_SIMULATED.get(__version_tuple__[:2])]


def cases(kind: str, campaign: bool) -> list[Case]:
    """30 workloads, 12 by priority; 200 of each in the campaign."""
    count = 200 if campaign else 12 if kind == "priority" else 30
    return [random_case(seed, **KINDS[kind]) for seed in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_the_engines_own_order_is_kept_to_the_letter(kind, base, campaign):
    """`preempt-evict` answers nothing: every step equals plain vLLM's."""
    for case in cases(kind, campaign):
        steps, scheduler = run_ours(case, "preempt-evict", base)
        assert steps == run_case(case, base), f"seed {case.seed}"
        counters = scheduler.bidkv.controller.counters
        assert counters.decisions == counters.failures == counters.preemptions_by_policy == 0


@pytest.mark.parametrize("kind", SIMULATED)
def test_the_simulator_repeats_the_real_scheduler(kind, campaign, note_figures):
    """Tokens and victims of every step are equal, for the engine's own order and for every policy."""
    preempting = choosing_differently = steps = preemptions = 0
    victims: dict[str, list[tuple[str, ...]]] = {policy: [] for policy in POLICIES}
    workloads = comparable(kind, campaign)
    for case in workloads:
        for policy in POLICIES:
            real = compare(case, policy)
            victims[policy].append(tuple(victim for step in real for victim in step.preempted))
            steps += len(real)
            preemptions += len(victims[policy][-1])
        preempting += bool(victims["preempt-evict"][-1])
        choosing_differently += len({chosen[-1] for chosen in victims.values()}) > 1
    note_figures(
        f"{kind}: {len(workloads)} workloads under {len(POLICIES)} policies, {steps} steps and "
        f"{preemptions} preemptions of the simulator as the real scheduler's, exceptions: 0; "
        f"{preempting} workloads preempt under the engine's own order, "
        f"in {choosing_differently} the policies' victims differ"
    )
    # Without pressure there is nothing to compare, and policies that choose alike prove little.
    least = 0.8 if kind == "plain" else 0.7
    if not LONE_PREFILL_IS_WHOLE:
        least -= 0.1  # fewer workloads are left there, and those left out are tight ones
    assert preempting >= least * len(workloads)
    assert len({tuple(chosen) for chosen in victims.values()}) == len(POLICIES)


@pytest.mark.parametrize("kind", SIMULATED)
@pytest.mark.parametrize("policy", [name for name in OTHER_POLICIES if name not in COUNT_QUESTIONS])
def test_the_simulator_repeats_the_real_scheduler_under_the_other_policies(
    policy, kind, campaign, note_figures
):
    workloads = comparable(kind, campaign)[: 60 if campaign else 8]
    preemptions = sum(len(step.preempted) for case in workloads for step in compare(case, policy))
    note_figures(f"{kind}, {policy}: {len(workloads)} workloads, {preemptions} preemptions, exceptions: 0")
    assert preemptions > 20


def comparable(kind: str, campaign: bool) -> list[Case]:
    """The cases in which the simulator follows this version of vLLM."""
    return [
        case
        for case in cases(kind, campaign)
        if LONE_PREFILL_IS_WHOLE or not case.shape.long_prefill_token_threshold
    ]


def compare(case: Case, policy: str) -> list[Step]:
    """The steps of a case under a policy, the same from the real scheduler and from the simulator."""
    real, _ = run_ours(case, policy)
    inside = resolve(policy)
    by_priority = case.shape.scheduling_policy == "priority"
    simulated, _ = simulate_case(case, WithinClasses(inside) if by_priority else inside)
    assert simulated == real, f"seed {case.seed}, {policy}: first at step {first_difference(real, simulated)}"
    return real


def first_difference(left: list, right: list) -> int:
    """The first position at which two lists differ."""
    pairs = zip(left, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_who_is_named_is_preempted(kind, base, campaign, note_figures):
    """Victims reach `_preempt_request` as the policy named them, and nobody else does."""
    preemptions = spared = 0
    for case in cases(kind, campaign)[: None if campaign else 10]:
        for policy in ("lcf", "largest-first", "bidkv", "static-random"):
            named: dict[int, dict[str, list[tuple[int, int]]]] = {}

            def watch(scheduler, named=named):
                def write(victims):
                    named[scheduler.current_step] = {
                        victim.request_id: [(block.block_id, block.ref_cnt) for block in victim._blocks]
                        for victim in victims
                    }

                scheduler.bidkv.glue.on_victims = write

            steps, scheduler = run_ours(case, policy, base, prepare=watch)
            for number, step in enumerate(steps):
                chosen = tuple(named.get(number, ()))
                assert step.preempted == chosen[: len(step.preempted)], f"seed {case.seed}, {policy}"
                if len(step.preempted) < len(chosen):
                    # Memory was not short after all: the step's tokens were spent before the tail was
                    # reached, or those preempted freed blocks together that none of them held alone.
                    spared += len(chosen) - len(step.preempted)
                    held = Counter(holding for name in step.preempted for holding in named[number][name])
                    together = any(holders == count > 1 for (_, holders), count in held.items())
                    spent = sum(n for _, n in step.scheduled) == case.shape.max_num_batched_tokens
                    assert together or spent, f"seed {case.seed}, {policy}"
            counters = scheduler.bidkv.controller.counters
            assert counters.preemptions_by_policy == sum(len(step.preempted) for step in steps)
            assert counters.preemptions_by_engine == counters.failures == 0
            assert counters.completions == len(case.requests)
            preemptions += counters.preemptions_by_policy
    note_figures(
        f"{kind}, {base.__name__}: {preemptions} preemptions, all of victims named and in their order; "
        f"{spared} more were named and spared"
    )
    assert preemptions > 300
    assert spared < 0.1 * preemptions
