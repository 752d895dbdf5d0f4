"""Which steps a saturated replica runs, and how long they take: decode steps and prefill steps of any fill.

When a request ends, about as many prompt tokens enter as it leaves behind, cut into chunks of what the
running requests leave of a step's token budget. A profile's step time is far from linear in the tokens of
a prefill step, so the law of those tokens is needed. Full chunks take steps of their own; the rests queue
for the other steps and share them where they meet. With arrivals Poisson a step, the tokens that wait obey
Lindley's recursion W' = max(W - C, 0) + arrivals, whose stationary law is found on a grid of C/32 tokens
(the arrivals of a step by Panjer's recursion, 1981).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bidkv.stability.occupancy import Occupancy, Points, ReplicaShape

_BINS = 32
_MOST_BINS = 6 * _BINS
_MOST_ROUNDS = 100
_NEGLIGIBLE = 1e-8
_CLOSE_ENOUGH = 1e-5
# From this load of rests on every step is taken to be full.
_SWAMPED = 0.95


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
    """Step times of a saturated replica, in seconds."""

    mean_s: float
    median_s: float
    decode_s: float
    prefill_s: float


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
    prefill_s = prefill_price(points, state.running, state.resident_tokens, step_time, cached_prompt_share)
    decode_s = prefill_s(0.0)
    excess = _mean_excess(points)
    # Where memory binds, an ending request's s + o tokens enter, or none when they miss what the head of
    # the queue lacks; where max_num_seqs binds, one prompt enters.
    memory, seats = state.memory_bound, 1.0 - state.memory_bound
    events = [(s + o, memory * w * max(1.0 - excess(s + o) / mean_s, 0.0)) for s, o, w in points]
    events += [(s, seats * w) for s, _, w in points]
    if computed <= 0.0 or not any(w for _, w in events):
        return StepMix(decode_s, decode_s, decode_s, decode_s)
    scale = computed / math.fsum(tokens * w for tokens, w in events)
    width = chunk / _BINS
    full, rests = 0.0, [0.0] * (_BINS + 1)
    for tokens, weight in events:
        chunks, rest = divmod(tokens * scale, chunk)
        full += weight * chunks
        # At least one bin: a short prompt costs a prefill step all the same.
        below, part = divmod(max(rest / width, 1.0) if rest > 0.0 else 0.0, 1.0)
        rests[int(below)] += weight * (1.0 - part)
        rests[min(int(below) + 1, _BINS)] += weight * part
    full_share = min(state.requests_per_step * full, 0.999)
    waiting = _waiting_tokens(state.requests_per_step / (1.0 - full_share), rests)
    full_s = prefill_s(chunk)
    share, in_prefill = full_share, full_share * full_s
    for index, probability in enumerate(waiting[1:], start=1):
        if probability > _NEGLIGIBLE:
            seconds = full_s if index >= _BINS else prefill_s(index * width)
            share += (1.0 - full_share) * probability
            in_prefill += (1.0 - full_share) * probability * seconds
    mean_prefill_s = in_prefill / share if share > 0.0 else full_s
    return StepMix(
        mean_s=(1.0 - share) * decode_s + in_prefill,
        median_s=decode_s if share < 0.5 else mean_prefill_s,
        decode_s=decode_s,
        prefill_s=mean_prefill_s,
    )


class PrefillPrice(Protocol):
    """Seconds of a step as a function of its prefill tokens; 0 tokens are a decode step."""

    def __call__(self, tokens: float, context: float = ..., /) -> float:
        """Return the seconds when each token attends to `context` tokens (left out: the law's mean)."""


def prefill_price(
    points: Points, running: float, resident_tokens: float, step_time: StepTime, cached_prompt_share: float
) -> PrefillPrice:
    """Fix the running requests and what they hold, and leave the prefill tokens of a step open."""
    decodes, resident = max(round(running), 1), round(resident_tokens)
    mean_s = math.fsum(w * s for s, _, w in points)
    # A computed token meets half its prompt, and all that was cached; prompts weigh by their tokens.
    usual = math.fsum(w * s * s for s, _, w in points) / mean_s * (0.5 + 0.5 * cached_prompt_share)

    def seconds(tokens: float, context: float = usual, /) -> float:
        return step_time(round(tokens), tokens * context, decodes, resident, 1 if tokens > 0.0 else 0)

    return seconds


def _waiting_tokens(rate: float, rests: list[float]) -> list[float]:
    """Return the stationary law of tokens waiting at a step's start, in bins of which `_BINS` fill a step.

    Args:
        rate: expected number of ending requests a step.
        rests: probability that one of them brings so many bins of tokens; what is missing to 1 brings none.
    """
    if rate * math.fsum(j * p for j, p in enumerate(rests)) >= _SWAMPED * _BINS:
        return [0.0] * _MOST_BINS + [1.0]
    # Panjer: the compound Poisson law of a step's arrivals.
    arrivals = [math.exp(-rate * math.fsum(rests[1:]))]
    weighted = [(j, rate * j * p) for j, p in enumerate(rests) if j and p > 0.0]
    for n in range(1, _MOST_BINS + 1):
        arrivals.append(math.fsum(p * arrivals[n - j] for j, p in weighted if j <= n) / n)
    arrivals[-1] += max(1.0 - math.fsum(arrivals), 0.0)
    likely = [(j, q) for j, q in enumerate(arrivals) if q > _NEGLIGIBLE]
    law = arrivals
    for _ in range(_MOST_ROUNDS):
        left = [math.fsum(law[: _BINS + 1]), *law[_BINS + 1 :]]
        following = [0.0] * (_MOST_BINS + 1)
        for i, p in enumerate(left):
            if p > _NEGLIGIBLE:
                for j, q in likely:
                    following[min(i + j, _MOST_BINS)] += p * q
        change = max(abs(x - y) for x, y in zip(law, following, strict=True))
        law = following
        if change < _CLOSE_ENOUGH:
            break
    return law


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
