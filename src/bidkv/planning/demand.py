"""The demand on a service: a length law and arrivals over time, measured on a trace or stated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.stability import EmpiricalLaw, Estimate, ForgettingMoments, LengthLaw, UniformLaw

WINDOW_S = 300.0
"""Length of the windows in which arrivals are counted: as long as a queue may grow before users notice."""

BUSY_SHARE = 0.95
"""The replicas are planned for this share of the windows, counted from the quietest, by nearest rank."""

_FEWEST_WINDOWS = 4
"""Fewest windows that say anything about whether arrivals are stationary."""

_CHANCE = 3.0
"""Arrivals are stationary unless their counts vary by this many standard deviations more than Poisson's."""

_MOST_RATIO = 1.2
"""Nor are they called otherwise unless the busiest windows have more than this many times the mean rate."""


@dataclass(frozen=True, slots=True)
class ArrivalWindows:
    """Arrivals over time.

    Attributes:
        window_s: length of a window in seconds.
        rates_rps: requests per second of each window, from the first arrival on.
        is_stationary: whether the counts vary no more than chance explains.
    """

    window_s: float
    rates_rps: tuple[float, ...]
    is_stationary: bool

    @property
    def busy_rps(self) -> float:
        """Rate of the busiest windows: the nearest-rank quantile at :data:`BUSY_SHARE`."""
        ordered = sorted(self.rates_rps)
        return ordered[max(math.ceil(BUSY_SHARE * len(ordered)), 1) - 1]


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests as a law of lengths and a rate of arrivals.

    Attributes:
        law: joint law of prompt and output length.
        arrivals: mean requests per second, with its uncertainty.
        source: its name in the plan.
        windows: arrivals over time; None where they were not measured on a long enough trace.
        requests: the trace itself, whose arrivals a simulated fleet gets; empty for a stated demand.
    """

    law: LengthLaw
    arrivals: Estimate
    source: str
    windows: ArrivalWindows | None = None
    requests: Sequence[WorkloadRequest] = field(default=(), repr=False)

    @property
    def busy(self) -> Estimate:
        """The rate to plan for: that of the busiest windows, where arrivals are not stationary."""
        if self.windows is None or self.windows.is_stationary:
            return self.arrivals
        return self.arrivals._replace(value=max(self.windows.busy_rps, self.arrivals.value))

    @classmethod
    def from_requests(cls, requests: Iterable[WorkloadRequest], source: str) -> Demand:
        """Measure the law, the mean rate and the arrivals over time of a workload.

        Raises:
            ValueError: fewer than two requests, or all at one instant.
        """
        gaps, kept = ForgettingMoments(math.inf), list(requests)
        for before, request in pairwise(kept):
            gaps.update(request.arrival_s - before.arrival_s, at_s=0.0)
        gap = gaps.get()
        if not gap.value > 0.0:
            raise ValueError(f"{source}: a rate needs at least two requests at different times")
        rate = 1.0 / gap.value
        spread = 0.0 if math.isinf(gap.stderr) else rate * gap.stderr / gap.value
        law = EmpiricalLaw.from_pairs((request.prompt_tokens, request.output_tokens) for request in kept)
        arrivals = Estimate(rate, spread, gap.samples, gap.enough)
        times_s = [request.arrival_s for request in kept]
        return cls(law, arrivals, source, count_windows(times_s), tuple(kept))

    @classmethod
    def uniform(cls, prompt: tuple[int, int], output: tuple[int, int], rate_rps: float) -> Demand:
        """Make a demand of uniform lengths and a stated rate.

        Args:
            prompt: least and most tokens of a prompt.
            output: least and most tokens of an answer, independent of the prompt.
            rate_rps: requests a second.

        Raises:
            ValueError: bounds out of order or a rate that is not positive.
        """
        if not 0.0 < rate_rps < math.inf:
            raise ValueError("the rate must be > 0 and finite")
        source = f"U({prompt[0]},{prompt[1]}) x U({output[0]},{output[1]})"
        return cls(UniformLaw(prompt, output), Estimate(rate_rps, 0.0, math.inf, True), source)

    def draw(self, count: int, seed: int) -> list[tuple[int, int]]:
        """Return `count` pairs of (prompt, output) tokens, drawn from this law.

        A trace gives each of its own pairs, in an order that `seed` decides, before any is repeated.
        """
        random = Random(seed)
        if isinstance(self.law, UniformLaw):
            prompt, output = self.law.prompt, self.law.output
            return [(random.randint(*prompt), random.randint(*output)) for _ in range(count)]
        points = [(round(s), round(o)) for s, o, _ in self.law.sample()]
        random.shuffle(points)
        return (points * -(-count // len(points)))[:count]


def count_windows(times_s: Sequence[float], window_s: float = WINDOW_S) -> ArrivalWindows | None:
    """Count arrivals in windows; None where there are too few windows to tell anything.

    Args:
        times_s: of the arrivals, in order.
        window_s: length of a window; a last window that is not whole is left out.
    """
    number = int((times_s[-1] - times_s[0]) / window_s)
    if number < _FEWEST_WINDOWS:
        return None
    counts = [0] * number
    for time_s in times_s:
        index = int((time_s - times_s[0]) / window_s)
        if index < number:
            counts[index] += 1
    mean = sum(counts) / number
    # The index of dispersion: about chi-squared with number - 1 degrees of freedom for a Poisson process.
    dispersion = sum((count - mean) ** 2 for count in counts) / mean
    freedom = number - 1
    varies = dispersion > freedom + _CHANCE * math.sqrt(2.0 * freedom)
    windows = ArrivalWindows(window_s, tuple(count / window_s for count in counts), not varies)
    if varies and windows.busy_rps <= _MOST_RATIO * mean / window_s:
        return replace(windows, is_stationary=True)
    return windows
