"""Which steps a saturated replica runs, and how long they take: decode steps, partial and full prefill steps.

When a request ends, about as many prompt tokens enter as it leaves behind, cut into chunks of what the
running requests leave of a step's token budget. A profile's step time is far from linear in the tokens of
a prefill step, so full and partial chunks are priced apart. Chunks of events that meet share a step: if x
events a step bring A tokens each and cost n(A) steps of C tokens alone, the busy fraction p of steps with
prefill obeys p = rho + d*b with rho = x*E[A]/C, d = E[n] - E[A]/C, and b = (e^x - 1)(1 - p) busy periods a
step (each wastes d of a step once).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bidkv.stability.occupancy import Occupancy, Points, ReplicaShape


class StepTime(Protocol):
    """Seconds of one engine step; :meth:`bidkv.profiles.StepTimeProfile.step_s` is one."""

    def __call__(
        self,
        prefill_tokens: int,
        prefill_attention: float,
        decode_requests: int,
        context_tokens: int,
        num_prefills: int = 0,
        /,
    ) -> float:
        """Return the seconds of a step.

        Args:
            prefill_tokens: tokens of prompts (or recompute) in the step.
            prefill_attention: their query-key pairs, the sum over chunks of chunk*(tokens before + chunk/2).
            decode_requests: requests that decode one token.
            context_tokens: tokens resident of all scheduled requests.
            num_prefills: requests that prefill.
        """


@dataclass(frozen=True, slots=True)
class StepMix:
    """Step times of a saturated replica, seconds; `prefill_share` of the steps hold prefill."""

    mean_s: float
    median_s: float
    decode_s: float
    prefill_s: float
    prefill_share: float


def step_mix(
    points: Points, shape: ReplicaShape, state: Occupancy, step_time: StepTime, cached_prompt_share: float
) -> StepMix:
    """Return the step times in the state `state`.

    Args:
        points: the length law's points.
        shape: the replica.
        state: its steady state.
        step_time: seconds of a step.
        cached_prompt_share: share of prompt tokens found in the prefix cache.
    """
    fresh = 1.0 - cached_prompt_share
    mean_s = math.fsum(w * s for s, _, w in points)
    computed = fresh * mean_s + state.recomputed_tokens
    chunk = max(shape.max_num_batched_tokens - state.running, 1.0)
    decodes, context = max(round(state.running), 1), round(state.resident_tokens)
    # Query-key pairs a computed token meets: half the length of the prompts, weighted by their tokens.
    pairs = math.fsum(w * s * s for s, _, w in points) / mean_s * (0.5 + 0.5 * cached_prompt_share)

    def prefill_s(tokens: float) -> float:
        return step_time(round(tokens), tokens * pairs, decodes, context, 1)

    decode_s = step_time(0, 0.0, decodes, context, 0)
    excess = _mean_excess(points)
    # Where memory binds, an ending request's s + o tokens enter, or nobody when they miss what the head of
    # the queue lacks; where max_num_seqs binds, one prompt enters.
    memory, seats = state.memory_bound, 1.0 - state.memory_bound
    events = [(s + o, memory * w * max(1.0 - excess(s + o) / mean_s, 0.0)) for s, o, w in points]
    events += [(s, seats * w) for s, _, w in points]
    entering = math.fsum(w for _, w in events)
    if entering <= 0.0 or computed <= 0.0:
        return StepMix(decode_s, decode_s, decode_s, decode_s, 0.0)
    scale = computed / math.fsum(tokens * w for tokens, w in events)
    full = partial = partial_s = 0.0
    for tokens, weight in events:
        chunks, rest = divmod(tokens * scale, chunk)
        full += weight * chunks
        if rest >= 1.0:
            partial += weight
            partial_s += weight * prefill_s(rest)
    arriving = state.requests_per_step * entering
    load = state.requests_per_step * computed / chunk
    waste = (full + partial) / entering - computed / (entering * chunk)
    meeting = waste * math.expm1(min(arriving, 50.0))
    share = min((load + meeting) / (1.0 + meeting), 1.0)
    full_share = min(share, state.requests_per_step * full)
    full_s = prefill_s(chunk)
    in_prefill = full_share * full_s + (share - full_share) * (partial_s / partial if partial else full_s)
    mean_prefill_s = in_prefill / share if share > 0.0 else full_s
    return StepMix(
        mean_s=(1.0 - share) * decode_s + in_prefill,
        median_s=decode_s if share < 0.5 else mean_prefill_s,
        decode_s=decode_s,
        prefill_s=mean_prefill_s,
        prefill_share=share,
    )


def _mean_excess(points: Points) -> Callable[[float], float]:
    """Return the function j -> E[max(s - j, 0)] of the prompt length s."""
    ordered = sorted((s, w) for s, _, w in points)
    lengths = [s for s, _ in ordered]
    weight_from, tokens_from = [0.0], [0.0]
    for s, w in reversed(ordered):
        weight_from.append(weight_from[-1] + w)
        tokens_from.append(tokens_from[-1] + w * s)
    count = len(ordered)

    def excess(j: float) -> float:
        above = count - bisect_right(lengths, j)
        return tokens_from[above] - j * weight_from[above]

    return excess
