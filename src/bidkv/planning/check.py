"""Test a plan: the simulator at shares of the predicted rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bidkv.baselines import ENGINE_ORDER
from bidkv.evaluation.saturation import backlog_growth, poisson_requests
from bidkv.planning.demand import Demand
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import ServiceRate

SHARES = (0.9, 1.0, 1.1)
"""Rates that are simulated, as shares of the predicted sustainable rate."""

_REQUESTS = 8000
"""Requests of one simulated rate: enough for chance to leave less than :data:`GROWING` in a stable queue."""

GROWING = 0.045
"""A queue that keeps more than this share of the later arrivals grows.

It lies between what chance leaves in a stable queue and the 9 % that stay behind at 1.1 of the boundary.
"""


@dataclass(frozen=True, slots=True)
class RateCheck:
    """One simulated rate.

    Attributes:
        share: of the predicted sustainable rate.
        arrivals_rps: Poisson arrivals per second.
        throughput_rps: completed requests per second.
        backlog_growth: share of the later arrivals that the queue kept.
        is_growing: whether that is more than chance.
        kv_use: mean share of the blocks in use.
    """

    share: float
    arrivals_rps: float
    throughput_rps: float
    backlog_growth: float
    is_growing: bool
    kv_use: float


def check_rates(
    demand: Demand,
    service: ServiceRate,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    shares: Sequence[float] = SHARES,
    requests: int = _REQUESTS,
    seed: int = 0,
    on_check: Callable[[RateCheck], None] | None = None,
) -> list[RateCheck]:
    """Simulate one replica at shares of its predicted rate, under the engine's own order.

    Args:
        demand: lengths are drawn from its law; arrivals are Poisson.
        service: whose `sustainable_rps` the shares are of.
        engine: the replica.
        profile: its step times.
        shares: of the predicted rate.
        requests: simulated at each share.
        seed: of lengths and arrivals.
        on_check: told of every simulated rate.

    Returns:
        One check for each share, in their order.
    """
    pairs = [pair for pair in demand.draw(requests, seed) if pair[0] < engine.model_len]
    checks = []
    for share in shares:
        rate = share * service.sustainable_rps
        result = simulate(poisson_requests(pairs, rate, seed), resolve(ENGINE_ORDER), engine, profile)
        summary = result.summary()
        growth = backlog_growth(result)
        checks.append(
            RateCheck(
                share=share,
                arrivals_rps=rate,
                throughput_rps=summary["throughput_rps"],
                backlog_growth=growth,
                is_growing=growth > GROWING,
                kv_use=summary["kv_utilization_mean"],
            )
        )
        if on_check is not None:
            on_check(checks[-1])
    return checks
