"""What a replica sustains by simulation: the yardstick of loads and of the closed-form service rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from bidkv.baselines import ENGINE_ORDER
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, SglangConfig, simulate

_WARM_UP = 0.2
"""Share of the completions that fill an empty memory and are not counted."""


@dataclass(frozen=True, slots=True)
class Saturation:
    """A replica whose queue is never empty.

    Attributes:
        rate_rps: completions per second while requests wait.
        result: the run behind it.
    """

    rate_rps: float
    result: RunResult


def queued_throughput_rps(
    requests: Sequence[WorkloadRequest], engine: EngineConfig | SglangConfig, profile: StepTimeProfile
) -> float:
    """Return completed requests per second of the whole run under the engine's own order.

    This is what loads are shares of: the requests should all be there from the start. The fill at the
    beginning and the drain at the end are part of it, so it is a little below :func:`measure_saturation`.

    Args:
        requests: the workload, with arrivals so early that the queue is never empty until the drain.
        engine: the engine's options.
        profile: step times.
    """
    result = simulate(requests, resolve(ENGINE_ORDER), engine, profile, timeline_points=2)
    return len(result.completed) / result.span_s


def measure_saturation(
    lengths: Iterable[tuple[int, int]],
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    strategy: str = ENGINE_ORDER,
    seed: int = 0,
) -> Saturation:
    """Let all requests arrive at once, in random order, and count completions while requests wait.

    The order is random because a rate belongs to a law: the drift of a trace would otherwise decide which
    of its requests are counted. The first fifth of the requests fills the memory and is not counted.

    Args:
        lengths: (prompt, output) pairs, in tokens.
        engine: the engine's options.
        profile: step times.
        strategy: a policy's name.
        seed: of the order.

    Raises:
        ValueError: too few requests to keep a queue after the first fifth.
    """
    pairs = list(lengths)
    Random(seed).shuffle(pairs)
    queued = [WorkloadRequest(f"r{index}", 0.0, *pair) for index, pair in enumerate(pairs)]
    result = simulate(queued, resolve(strategy), engine, profile)
    return Saturation(rate_while_waiting(result), result)


def rate_while_waiting(result: RunResult) -> float:
    """Return completions per second while the queue is not empty, the first fifth left out.

    Raises:
        ValueError: the queue is empty before a fifth of the requests has completed.
    """
    finishes = sorted(r.finish_s for r in result.completed if r.finish_s is not None)
    until = max((p.time_s for p in result.timeline if p.waiting > 0), default=0.0)
    since = finishes[int(_WARM_UP * len(finishes))] if finishes else 0.0
    if not until > since:
        raise ValueError(
            f"{len(result.records)} requests do not saturate the replica: its queue empties too soon"
        )
    return sum(1 for at in finishes if since < at <= until) / (until - since)


def poisson_requests(lengths: Sequence[tuple[int, int]], rate_rps: float, seed: int) -> list[WorkloadRequest]:
    """Return requests of these lengths in random order, arriving as a Poisson process."""
    random = Random(seed)
    pairs = list(lengths)
    random.shuffle(pairs)
    requests, now = [], 0.0
    for index, (prompt, output) in enumerate(pairs):
        requests.append(WorkloadRequest(f"r{index}", now, prompt, output))
        now += random.expovariate(rate_rps)
    return requests


def backlog_growth(result: RunResult) -> float:
    """Return the share of the second half's arrivals that the queue still holds when the last one arrives.

    It is near 0 when the queue is stable, and 1 - mu/lambda when it is not.
    """
    arrivals = [r.arrival_s for r in result.records]
    half, last = arrivals[len(arrivals) // 2], arrivals[-1]
    before = [p.waiting for p in result.timeline if p.time_s <= half]
    after = [p.waiting for p in result.timeline if p.time_s <= last]
    grown = (after[-1] if after else 0) - (before[-1] if before else 0)
    return grown / (len(arrivals) - len(arrivals) // 2)
