"""The fewest replicas that keep a target, found by simulating whole fleets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, TypeVar

from bidkv.evaluation.latency_target import LatencyTarget
from bidkv.planning.capacity import CapacityPlan, ReplicaOption, advise_kv
from bidkv.planning.demand import Demand
from bidkv.planning.fleet import (
    DEFAULT_ROUTER,
    MOST_SIMULATED,
    FleetCheck,
    OnTrial,
    make_workload,
    simulate_size,
)
from bidkv.planning.resampling import resample
from bidkv.profiles import StepTimeProfile
from bidkv.simulator import EngineConfig

RUNS = 2
"""Simulations in which a fleet must keep the target, each with chance of its own."""

TTFT_ROOM, TPOT_ROOM = 0.8, 0.95
"""Share of a bound that simulated fleets must keep: other chance has longer tails than that of the sizing.

Without room 7 of 95 plans missed their target by new chance, with 3 % more replicas than the fewest.
"""

_FARTHEST = 8
"""Fleets larger than so many times the closed form's are not looked for."""

_SEED = 100
"""Not the seed of :func:`bidkv.planning.fleet.verify_fleet`, which so tests by new chance what was found."""

_REQUESTS_EACH = 1500
_FEWEST_REQUESTS = 8_000
_MOST_REQUESTS = 40_000
"""Requests of one simulation: so many a replica within these bounds."""

MOST_REPLICAS = 100_000
"""Largest fleet that is looked for."""

_IDLE = 0.05
"""Share of what a replica sustains at which it is as good as idle."""


def find_fewest(
    trial: Callable[[int], FleetCheck], guess: int, *, least: int = 1, most: int = MOST_REPLICAS
) -> FleetCheck | None:
    """Return the check of the smallest fleet that holds; None when none up to `most` does.

    Steps of doubling length lead from the guess to a fleet that holds beside one that does not, and halving
    what lies between finds the smallest. A fleet is taken to hold whenever a smaller one does.

    Args:
        trial: simulates so many replicas.
        guess: where to start, at least `least`.
        least: smallest fleet to try.
        most: largest fleet to try.
    """
    best, step = trial(guess), 1
    too_few = least - 1
    if best.holds:
        while best.replicas > least:
            tried = trial(max(best.replicas - step, least))
            if not tried.holds:
                too_few = tried.replicas
                break
            best, step = tried, 2 * step
    while not best.holds:
        if best.replicas >= most:
            return None
        too_few = best.replicas
        best, step = trial(min(too_few + step, most)), 2 * step
    while best.replicas - too_few > 1:
        tried = trial((best.replicas + too_few) // 2)
        if tried.holds:
            best = tried
        else:
            too_few = tried.replicas
    return best


def size_fleet(
    demand: Demand,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget,
    guess: int,
    least: int = 1,
    most: int = MOST_REPLICAS,
    growth: float = 1.0,
    router: str = DEFAULT_ROUTER,
    seed: int = _SEED,
    on_trial: OnTrial | None = None,
) -> FleetCheck | None:
    """Return the smallest fleet that keeps a target, with its simulated figures; None when none does.

    A fleet must keep the target in each of :data:`RUNS` simulations: one that keeps it by luck alone would
    break it the next day. A stated law is drawn anew for each. A trace is simulated with its own arrivals and
    with days like its own (:func:`bidkv.planning.resampling.resample`).

    Args:
        demand: the requests.
        engine: options of each replica.
        profile: its step times.
        target: what must be kept.
        guess: where to start looking.
        least: smallest fleet to look at.
        most: largest fleet to look at.
        growth: factor on the load.
        router: a name out of :func:`bidkv.simulator.fleet.available_routers`.
        seed: of lengths and arrivals.
        on_trial: is told of every simulated fleet.
    """
    guess = max(guess, least)
    part = -(-guess // MOST_SIMULATED)
    number = min(max(_REQUESTS_EACH * guess, _FEWEST_REQUESTS), _MOST_REQUESTS)
    workloads = [make_workload(demand, engine, growth, number, seed, part=part)]
    for run in range(1, RUNS):
        workloads.append(
            resample(workloads[0], seed + run)
            if demand.requests
            else make_workload(demand, engine, growth, number, seed + run, part=part)
        )
    rate_rps = growth * demand.arrivals.value

    def trial(kept: LatencyTarget, replicas: int) -> FleetCheck:
        checks = (
            simulate_size(workload, engine, profile, kept, router, replicas, rate_rps)
            for workload in workloads
        )
        return worst_of(checks, on_trial)

    first, low, high = (-(-number // part) for number in (guess, least, most))
    # A target so near to what an idle replica does that it leaves no room is kept without.
    for kept, largest in ((with_room(target), min(2 * first, high)), (target, high)):
        found = find_fewest(partial(trial, kept), first, least=low, most=max(largest, first))
        if found is not None:
            return replace(found, replicas=max(part * found.replicas, least))
    return None


class _Check(Protocol):
    @property
    def holds(self) -> bool: ...

    @property
    def ttft_p99_s(self) -> float: ...


_AnyCheck = TypeVar("_AnyCheck", bound=_Check)


def worst_of(checks: Iterable[_AnyCheck], on_check: Callable[[_AnyCheck], None] | None) -> _AnyCheck:
    """Return the first check that does not hold, or else the one whose first tokens came latest.

    Args:
        checks: at least one; none is taken after the first that does not hold.
        on_check: is told every one that is taken.
    """
    worst: _AnyCheck | None = None
    for check in checks:
        if on_check is not None:
            on_check(check)
        if worst is None or not check.holds or check.ttft_p99_s > worst.ttft_p99_s:
            worst = check
        if not check.holds:
            break
    assert worst is not None
    return worst


def with_room(target: LatencyTarget) -> LatencyTarget:
    """Return the stricter target that simulated fleets must keep, so that other loads keep `target`."""
    ttft_s = None if target.ttft_s is None else TTFT_ROOM * target.ttft_s
    tpot_s = None if target.tpot_s is None else TPOT_ROOM * target.tpot_s
    return replace(target, ttft_s=ttft_s, tpot_s=tpot_s)


@dataclass(frozen=True, slots=True)
class Sizing:
    """How a plan's numbers of replicas were found.

    Attributes:
        router: the rule that sends each request to a replica.
        now: the fleet for the load now as simulated; None when none keeps the target.
        grown: the fleet for the grown load; None when none keeps the target or it was not asked for.
        closed_form: replicas of the closed form, now; None where it found no number.
        closed_form_grown: the same for the grown load.
    """

    router: str
    now: FleetCheck | None
    grown: FleetCheck | None
    closed_form: int | None
    closed_form_grown: int | None


def size_plan(
    plan: CapacityPlan,
    demand: Demand,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget,
    kv_bits: int = 16,
    with_growth: bool = True,
    router: str = DEFAULT_ROUTER,
    seed: int = _SEED,
    on_trial: OnTrial | None = None,
) -> tuple[CapacityPlan, Sizing]:
    """Find a plan's numbers of replicas by simulation, from those of the closed form.

    No replica is planned to carry more than the plan's share of what it sustains, whatever a simulation of
    some minutes shows: near that edge a queue takes hours to show what it does.

    Args:
        plan: the closed form's.
        demand: the requests.
        engine: options of each replica.
        profile: its step times.
        target: what must be kept.
        kv_bits: bits of a KV value.
        with_growth: whether the grown load is sized, too.
        router: a name out of :func:`bidkv.simulator.fleet.available_routers`.
        seed: of lengths and arrivals.
        on_trial: is told of every simulated fleet.
    """
    most_rps = plan.target_utilization * plan.service.sustainable_rps

    def sized(growth: float, closed: int | None) -> FleetCheck | None:
        rate_rps = growth * demand.arrivals.value
        least = max(math.ceil(round(rate_rps / most_rps, 9)), 1)
        # Where the closed form finds no number, only a nearly idle fleet can still prove it wrong.
        guess = closed or math.ceil(rate_rps / (_IDLE * plan.service.sustainable_rps))
        most = _FARTHEST * max(guess, least) if closed else max(guess, least)
        return size_fleet(
            demand,
            engine,
            profile,
            target=target,
            guess=guess,
            least=least,
            most=most,
            growth=growth,
            router=router,
            seed=seed,
            on_trial=on_trial,
        )

    now = sized(1.0, plan.replicas)
    grown = sized(plan.growth, plan.replicas_grown) if with_growth and now is not None else None
    sizing = Sizing(router, now, grown, plan.replicas, plan.replicas_grown)
    return _with_sizes(plan, sizing, engine.usable_blocks, kv_bits), sizing


def _with_sizes(plan: CapacityPlan, sizing: Sizing, blocks: int, kv_bits: int) -> CapacityPlan:
    """Return the plan with the numbers found; what else counts replicas follows from them."""
    if sizing.now is None:
        return replace(plan, replicas=None, replicas_grown=None, each=None, planned_rps=0.0)
    number, grown = sizing.now.replicas, sizing.grown
    planned_rps = plan.busy_rps / number
    factor = 1.0
    if grown is not None and sizing.closed_form_grown:
        factor = grown.replicas / sizing.closed_form_grown
    grown_rps = plan.growth * plan.busy_rps

    def follow(option: ReplicaOption) -> ReplicaOption:
        if option.replicas is None:
            return option
        least = math.ceil(round(grown_rps / (plan.target_utilization * option.sustainable_rps), 9))
        return replace(option, replicas=max(math.ceil(round(factor * option.replicas, 9)), least))

    return replace(
        plan,
        replicas=number,
        replicas_grown=None if grown is None else grown.replicas,
        planned_rps=planned_rps,
        each=None,
        replicas_over_time=tuple(
            math.ceil(round(rate_rps / planned_rps, 9)) for rate_rps in plan.windows.rates_rps
        )
        if plan.windows is not None
        else (),
        kv_advice=advise_kv(planned_rps / plan.service.sustainable_rps, blocks, kv_bits),
        options=tuple(map(follow, plan.options)),
    )
