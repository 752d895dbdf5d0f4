"""A plan put to the test: the simulator at shares of the predicted rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.evaluation.saturation import ENGINE_OWN_RULE, backlog_growth, poisson
from bidkv.planning.demand import Demand
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.simulator import EngineConfig, simulate
from bidkv.stability import ServiceRate

SHARES = (0.9, 1.0, 1.1)
_REQUESTS = 8000
# Between what chance leaves of a stable queue and the 9 % that stay behind at 1.1 of the boundary.
GROWING = 0.045


@dataclass(frozen=True, slots=True)
class Check:
    """One simulated rate.

    Attributes:
        share: of the predicted sustainable rate.
        arrivals_rps: Poisson arrivals a second.
        throughput_rps: requests that ended a second.
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


def check(
    demand: Demand,
    service: ServiceRate,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    shares: Sequence[float] = SHARES,
    requests: int = _REQUESTS,
    seed: int = 0,
) -> list[Check]:
    """Simulate one replica at shares of its predicted rate, under the engine's own rule."""
    pairs = [pair for pair in demand.draw(requests, seed) if pair[0] < engine.model_len]
    checks = []
    for share in shares:
        rate = share * service.sustainable_rps
        result = simulate(poisson(pairs, rate, seed), resolve(ENGINE_OWN_RULE), engine, profile)
        summary = result.summary()
        growth = backlog_growth(result)
        checks.append(
            Check(
                share=share,
                arrivals_rps=rate,
                throughput_rps=summary["throughput_rps"],
                backlog_growth=growth,
                is_growing=growth > GROWING,
                kv_use=summary["kv_utilization_mean"],
            )
        )
    return checks
