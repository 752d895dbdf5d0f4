"""The rate a replica can sustain: the published formula and the model that corrects it, named apart.

`plain_rps` is mu = M / (b * E[g]) (Nie, Si and Zhou, arXiv 2605.04595) with the median step time as b.
`sustainable_rps` replaces what that leaves out: memory that is never exactly full and the unused ends of
blocks, max_num_seqs, a step time that depends on the batch, recompute after preemptions, prompts found in
the prefix cache (less compute, the same memory). Both are closed forms: nothing is simulated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from bidkv.stability.lengths import LengthLaw
from bidkv.stability.occupancy import Points, ReplicaShape, admissible, saturated
from bidkv.stability.step_mix import StepTime, step_mix

MODEL_ERROR = 0.04
"""Half width of the relative interval of the model; docs/reference/stability.md compares it to simulation."""


class Limit(StrEnum):
    """What more of would raise the sustainable rate most."""

    MEMORY = "memory"
    COMPUTE = "compute"
    SEQUENCES = "sequences"


@dataclass(frozen=True, slots=True)
class ServiceRate:
    """What one replica sustains under a length law.

    Attributes:
        sustainable_rps: requests per second at saturation, by the service-rate model.
        low_rps: lower end of its interval.
        high_rps: upper end of its interval.
        plain_rps: the published formula's rate, with the median step time.
        guaranteed_rps: plain_rps * (1 - delta): stable under any work-conserving policy by the theorem.
        delta: largest s + o over the memory, in (0, 1].
        mean_step_s: mean step time at saturation.
        median_step_s: median step time at saturation.
        running: mean running requests at saturation.
        memory_fill: mean share of the blocks in use at saturation.
        preemptions_per_request: at saturation.
        recompute_tax: recomputed tokens / all computed tokens at saturation.
        refused_share: share of requests too long for the engine.
        limit: what binds.
        memory_elasticity: percent of rate that one percent of memory buys.
    """

    sustainable_rps: float
    low_rps: float
    high_rps: float
    plain_rps: float
    guaranteed_rps: float
    delta: float
    mean_step_s: float
    median_step_s: float
    running: float
    memory_fill: float
    preemptions_per_request: float
    recompute_tax: float
    refused_share: float
    limit: Limit
    memory_elasticity: float


def service_rate(
    law: LengthLaw, shape: ReplicaShape, step_time: StepTime, *, cached_prompt_share: float = 0.0
) -> ServiceRate:
    """Predict what a replica sustains.

    Args:
        law: joint law of prompt and output length.
        shape: memory and limits of the replica.
        step_time: seconds of a step, for instance a profile's `step_s`.
        cached_prompt_share: share of prompt tokens found in the prefix cache, in [0, 1).

    Raises:
        ValueError: a share outside [0, 1), or a law of which no request fits.
    """
    if not 0.0 <= cached_prompt_share < 1.0:
        raise ValueError("cached_prompt_share must be in [0, 1)")
    points, refused = admissible(law, shape.longest_tokens)
    state = saturated(points, shape, cached_prompt_share)
    mix = step_mix(points, shape, state, step_time, cached_prompt_share)
    rate = state.requests_per_step / mix.mean_s

    wider = replace(shape, num_blocks=max(shape.num_blocks + 1, round(1.1 * shape.num_blocks)))
    if shape.max_model_len is None:
        wider = replace(wider, max_model_len=shape.longest_tokens)
    more = saturated(points, wider, cached_prompt_share)
    more_rate = more.requests_per_step / step_mix(points, wider, more, step_time, cached_prompt_share).mean_s
    elasticity = max(math.log(more_rate / rate) / math.log(wider.num_blocks / shape.num_blocks), 0.0)
    if state.memory_bound < 0.5:
        limit = Limit.SEQUENCES
    else:
        limit = Limit.MEMORY if elasticity >= 0.5 else Limit.COMPUTE

    demand, spread = _demand(points, shape.max_num_batched_tokens)
    plain = shape.memory_tokens / (mix.median_s * demand)
    delta = min(max(s + o for s, o, _ in points) / shape.memory_tokens, 1.0)
    half = math.hypot(MODEL_ERROR, 1.96 * spread / math.sqrt(law.draws))
    tokens = math.fsum(w * (s * (1.0 - cached_prompt_share) + o) for s, o, w in points)
    return ServiceRate(
        sustainable_rps=rate,
        low_rps=rate * max(1.0 - half, 0.0),
        high_rps=rate * (1.0 + half),
        plain_rps=plain,
        guaranteed_rps=plain * (1.0 - delta),
        delta=delta,
        mean_step_s=mix.mean_s,
        median_step_s=mix.median_s,
        running=state.running,
        memory_fill=state.memory_fill,
        preemptions_per_request=state.preemptions_per_request,
        recompute_tax=state.recomputed_tokens / (state.recomputed_tokens + tokens),
        refused_share=refused,
        limit=limit,
        memory_elasticity=elasticity,
    )


def _demand(points: Points, chunk: int) -> tuple[float, float]:
    """E[g] of the points, and the standard deviation of g over it."""
    demands = []
    for s, o, w in points:
        batches = math.ceil(s / chunk)
        demands.append((w, chunk * batches * (batches - 1) / 2.0 + s + o * s + o * (o + 1.0) / 2.0))
    mean = math.fsum(w * g for w, g in demands)
    return mean, math.sqrt(math.fsum(w * (g - mean) ** 2 for w, g in demands)) / mean
