"""The demand on a service: a length law and a rate of arrivals, measured on a trace or stated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.stability import EmpiricalLaw, Estimate, ForgettingMoments, LengthLaw, UniformLaw


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests as a law of lengths and a rate of arrivals.

    Attributes:
        law: joint law of prompt and output length.
        arrivals: requests per second, with its uncertainty.
        source: its name in the plan.
    """

    law: LengthLaw
    arrivals: Estimate
    source: str

    @classmethod
    def from_requests(cls, requests: Iterable[WorkloadRequest], source: str) -> Demand:
        """Measure the law and the mean rate of a workload.

        Raises:
            ValueError: fewer than two requests, or all at one instant.
        """
        gaps, pairs, before = ForgettingMoments(math.inf), [], math.nan
        for request in requests:
            pairs.append((request.prompt_tokens, request.output_tokens))
            if not math.isnan(before):
                gaps.update(request.arrival_s - before, at_s=0.0)
            before = request.arrival_s
        gap = gaps.get()
        if not gap.value > 0.0:
            raise ValueError(f"{source}: a rate needs at least two requests at different times")
        rate = 1.0 / gap.value
        spread = 0.0 if math.isinf(gap.stderr) else rate * gap.stderr / gap.value
        return cls(EmpiricalLaw.from_pairs(pairs), Estimate(rate, spread, gap.samples, gap.enough), source)

    @classmethod
    def uniform(cls, prompt: tuple[int, int], output: tuple[int, int], rate_rps: float) -> Demand:
        """Make a demand of uniform lengths and a stated rate.

        Raises:
            ValueError: bounds out of order or a rate that is not positive.
        """
        if not 0.0 < rate_rps < math.inf:
            raise ValueError("the rate must be > 0 and finite")
        source = f"U({prompt[0]},{prompt[1]}) x U({output[0]},{output[1]})"
        return cls(UniformLaw(prompt, output), Estimate(rate_rps, 0.0, math.inf, True), source)

    def draw(self, count: int, seed: int) -> list[tuple[int, int]]:
        """Draw (prompt, output) pairs of this law. A trace gives each of its own pairs before any repeats."""
        random = Random(seed)
        if isinstance(self.law, UniformLaw):
            prompt, output = self.law.prompt, self.law.output
            return [(random.randint(*prompt), random.randint(*output)) for _ in range(count)]
        points = [(round(s), round(o)) for s, o, _ in self.law.sample()]
        random.shuffle(points)
        return (points * -(-count // len(points)))[:count]
