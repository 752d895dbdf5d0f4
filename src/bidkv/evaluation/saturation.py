"""What a replica really sustains, by simulation: the yardstick of the closed-form service rate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from bidkv.baselines import ENGINE_ORDER
from bidkv.policy import resolve
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator import EngineConfig, simulate

ENGINE_OWN_RULE = ENGINE_ORDER
_WARM_UP = 0.2


@dataclass(frozen=True, slots=True)
class Saturation:
    """A replica with somebody always waiting: the rate at which requests end, and the run it comes from."""

    rate_rps: float
    result: RunResult


def saturated_rate(
    lengths: Iterable[tuple[int, int]],
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    strategy: str = ENGINE_OWN_RULE,
    seed: int = 0,
) -> Saturation:
    """Let all requests arrive at once, in random order, and count what ends while the queue is not empty.

    The order is random because a rate belongs to a law: the drift of a trace would otherwise decide which
    of its requests are counted. The first fifth of the requests fills the memory and is not counted.

    Args:
        lengths: (prompt, output) pairs.
        engine: the engine's options.
        profile: step times.
        strategy: a policy's name.
        seed: of the order.

    Raises:
        ValueError: too few requests to keep a queue after the first fifth.
    """
    pairs = list(lengths)
    Random(seed).shuffle(pairs)
    result = simulate(_at_once(pairs), resolve(strategy), engine, profile)
    return Saturation(rate_while_waiting(result), result)


def rate_while_waiting(result: RunResult) -> float:
    """Return the requests that end a second while the queue is not empty, the first fifth left out.

    Raises:
        ValueError: the queue is empty before a fifth of the requests has ended.
    """
    finishes = sorted(r.finish_s for r in result.completed if r.finish_s is not None)
    until = max((p.time_s for p in result.timeline if p.waiting > 0), default=0.0)
    since = finishes[int(_WARM_UP * len(finishes))] if finishes else 0.0
    if not until > since:
        raise ValueError(f"{len(result.records)} requests do not saturate the replica: nobody waits for long")
    return sum(1 for at in finishes if since < at <= until) / (until - since)


def poisson(lengths: Sequence[tuple[int, int]], rate_rps: float, seed: int) -> list[WorkloadRequest]:
    """Requests of these lengths in random order, arriving as a Poisson process."""
    random = Random(seed)
    pairs = list(lengths)
    random.shuffle(pairs)
    requests, now = [], 0.0
    for index, (prompt, output) in enumerate(pairs):
        requests.append(WorkloadRequest(f"r{index}", now, prompt, output))
        now += random.expovariate(rate_rps)
    return requests


def backlog_growth(result: RunResult) -> float:
    """Share of the arrivals of the second half that the queue kept.

    Near 0 when stable, 1 - mu/lambda when not.
    """
    arrivals = [r.arrival_s for r in result.records]
    half, last = arrivals[len(arrivals) // 2], arrivals[-1]
    before = [p.waiting for p in result.timeline if p.time_s <= half]
    after = [p.waiting for p in result.timeline if p.time_s <= last]
    grown = (after[-1] if after else 0) - (before[-1] if before else 0)
    return grown / (len(arrivals) - len(arrivals) // 2)


def _at_once(pairs: Sequence[tuple[int, int]]) -> list[WorkloadRequest]:
    return [WorkloadRequest(f"r{index}", 0.0, prompt, output) for index, (prompt, output) in enumerate(pairs)]
