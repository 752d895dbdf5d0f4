"""Test a plan's number of replicas: simulate the whole fleet behind a router, on one clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bidkv.baselines import ENGINE_ORDER
from bidkv.evaluation.conditions import find_queue_growth
from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.evaluation.saturation import backlog_growth, poisson_requests
from bidkv.planning.capacity import CapacityPlan
from bidkv.planning.check import GROWING
from bidkv.planning.demand import Demand
from bidkv.planning.resampling import thin_days
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.simulator.fleet import simulate_fleet

DEFAULT_ROUTER = "round-robin"
_REQUESTS_EACH = 2000
"""Requests simulated per replica: many times what it holds at once, so that a growing queue shows."""

MOST_SIMULATED = 48
"""Larger fleets are simulated as a share of themselves with the same share of the load.

Behind a round-robin router arrivals at one of 48 replicas are as even as at one of more.
"""


@dataclass(frozen=True, slots=True)
class FleetCheck:
    """One simulated fleet.

    Attributes:
        replicas: how many.
        arrivals_rps: mean arrivals per second at the whole fleet.
        throughput_rps: completed requests per second.
        is_growing: whether the queues kept more of the later arrivals than chance explains.
        kv_use: mean share of the blocks in use.
        ttft_p99_s: 99th percentile of the seconds to the first token.
        tpot_s: mean seconds per output token after the first.
        holds: whether the queues stay short and the target is kept.
    """

    replicas: int
    arrivals_rps: float
    throughput_rps: float
    is_growing: bool
    kv_use: float
    ttft_p99_s: float
    tpot_s: float
    holds: bool


OnTrial = Callable[[FleetCheck], None]
"""Is told of a simulated fleet; a fleet of which a share is simulated counts that share."""


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """The number of replicas that a load takes by simulation.

    Attributes:
        planned: the plan's number, simulated.
        fewest: the smallest fleet that holds; None when even twice the planned one does not.
    """

    planned: FleetCheck
    fewest: FleetCheck | None


@dataclass(frozen=True, slots=True)
class FleetVerification:
    """A plan's fleet sizes by simulation.

    Attributes:
        router: the rule that sends each request to a replica.
        has_target: whether a latency had to be kept, besides queues that stay short.
        now: for the load now.
        grown: for the grown load.
    """

    router: str
    has_target: bool
    now: FleetAnswer
    grown: FleetAnswer


def verify_fleet(
    plan: CapacityPlan,
    demand: Demand,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget = NO_TARGET,
    router: str = DEFAULT_ROUTER,
    requests_each: int = _REQUESTS_EACH,
    seed: int = 0,
    on_trial: OnTrial | None = None,
) -> FleetVerification | None:
    """Simulate the planned fleets under the engine's own rule, and look for the smallest that hold.

    The smallest is found by bisection, assuming that a fleet holds whenever a smaller one does. Of a fleet
    of more than :data:`MOST_SIMULATED` replicas a share is simulated.

    Args:
        plan: the plan to test.
        demand: the requests; those of a trace arrive in its own order and rhythm, stated ones as a Poisson
            process. A trace that is too short for the fleet is followed by days like it.
        engine: options of each replica.
        profile: its step times.
        target: what the plan was asked to keep.
        router: a name out of :func:`bidkv.simulator.fleet.available_routers`.
        requests_each: requests simulated per replica, at least.
        seed: of lengths and arrivals.
        on_trial: is told of every simulated fleet; one of which a share is simulated counts that share.

    Returns:
        None when the plan has no number of replicas.

    Raises:
        ValueError: an unknown router.
    """
    if plan.replicas is None or plan.replicas_grown is None:
        return None

    def answer(growth: float, planned: int) -> FleetAnswer:
        part = -(-planned // MOST_SIMULATED)
        first = -(-planned // part)
        number = requests_each * first
        if demand.requests and (fitting := make_workload(demand, engine, growth, number, seed)):
            workload = thin_days(fitting, number, seed, part=part)
        else:
            workload = make_workload(demand, engine, growth, number, seed, part=part)
        rate_rps = growth * demand.arrivals.value

        def trial(replicas: int) -> FleetCheck:
            check = simulate_size(workload, engine, profile, target, router, replicas, rate_rps)
            if on_trial is not None:
                on_trial(check)
            whole = planned if replicas == first else part * replicas
            return replace(check, replicas=whole, throughput_rps=part * check.throughput_rps)

        return _answer(trial, first, part)

    return FleetVerification(
        router,
        not target.is_empty,
        now=answer(1.0, plan.replicas),
        grown=answer(plan.growth, plan.replicas_grown),
    )


def make_workload(
    demand: Demand, engine: EngineConfig, growth: float, number: int, seed: int, *, part: int = 1
) -> list[WorkloadRequest]:
    """Return a trace's own requests, faster by `growth`, or `number` requests of a stated law.

    Args:
        demand: the requests.
        engine: whose limit on lengths leaves out what it refuses.
        growth: factor on the rate.
        number: requests of a stated law.
        seed: of a stated law.
        part: take the `part`-th part of the load: every `part`-th request of a trace.
    """
    if not demand.requests:
        pairs = [pair for pair in demand.draw(number, seed) if pair[0] < engine.model_len]
        return poisson_requests(pairs, growth / part * demand.arrivals.value, seed)
    return [
        replace(request, arrival_s=request.arrival_s / growth)
        for request in demand.requests[::part]
        if request.prompt_tokens + request.output_tokens <= engine.model_len
    ]


def _answer(trial: Callable[[int], FleetCheck], planned: int, part: int) -> FleetAnswer:
    """Simulate the planned number of replicas and find the fewest, both counted in steps of `part`."""
    first = trial(planned)
    best, most = (first, planned) if first.holds else (trial(2 * planned), 2 * planned)
    if not best.holds:
        return FleetAnswer(first, None)
    too_few = 0 if first.holds else planned
    while most - too_few > 1:
        middle = (most + too_few) // 2
        tried = trial(middle)
        if tried.holds:
            best, most = tried, middle
        else:
            too_few = middle
    return FleetAnswer(first, best)


def simulate_size(
    workload: Sequence[WorkloadRequest],
    engine: EngineConfig,
    profile: StepTimeProfile,
    target: LatencyTarget,
    router: str,
    replicas: int,
    rate_rps: float,
) -> FleetCheck:
    """Simulate a fleet under the engine's own order and judge it.

    Args:
        workload: all requests of the fleet, in order of arrival.
        engine: each replica.
        profile: its step times.
        target: what the fleet must keep; an empty one asks only that its queues do not grow.
        router: name of the router before it.
        replicas: how many.
        rate_rps: requests a second, as the check reports them.
    """
    result = simulate_fleet(
        workload, resolve(ENGINE_ORDER), engine, profile, replicas=replicas, router=router
    ).merged
    summary = result.summary()
    growing = backlog_growth(result) > GROWING or find_queue_growth(result) is not None
    ttft_s, tpot_s = summary["ttft_s"]["p99"], summary["tpot_s"]["mean"] or 0.0
    return FleetCheck(
        replicas=replicas,
        arrivals_rps=rate_rps,
        throughput_rps=summary["throughput_rps"],
        is_growing=growing,
        kv_use=summary["kv_utilization_mean"],
        ttft_p99_s=ttft_s,
        tpot_s=tpot_s,
        holds=not growing and _within(ttft_s, target.ttft_s) and _within(tpot_s, target.tpot_s),
    )


def _within(value: float, bound: float | None) -> bool:
    return bound is None or value <= bound
