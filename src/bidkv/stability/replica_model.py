"""A replica below saturation: how full it is, how fast tokens come, how long the first one takes.

Arrivals come in time, not in steps. Full prefill chunks take lambda * E[floor(s/C)] steps a second. The
rests of prompts share a step when they arrive during the same one: with decode steps of d seconds, prefill
steps of p seconds and a = (1 - e^(-lambda*d))/d starts a second out of decoding, the prefill steps for rests
come at nu = a * (1 - busy with full chunks) / (e^(-lambda*p) + a*p) a second. Decode steps fill what time is
left, every running request gets a token a step, and by Little's law the running requests reproduce
themselves: N = lambda * (seconds of its own prefill + its decode steps / (steps a second)).

Waiting for a seat is M/G/c by the Erlang C formula with c the requests that run at saturation, N/c their
utilization, and the mean scaled by (1 + cv^2)/2 for the spread of service times (Lee and Longton, 1959);
waiting behind full chunks is M/G/1 (Pollaczek-Khinchine). Tails are taken as exponential.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bidkv.stability.lengths import LengthLaw
from bidkv.stability.occupancy import Points, ReplicaShape, admissible, life, saturated
from bidkv.stability.step_mix import PrefillPrice, StepTime, prefill_price, step_mix

_HALVINGS = 24
_RATE_HALVINGS = 14
_GROUPS = 150
_SETTLING = 12
_TAIL = 0.01
_FEW_RUNNING = 8.0
"""Running requests at which half of a decode step counts as needed anyway; fitted to simulated runs."""

_MOST_BUSY = 0.97
"""Highest share of time for which the wait behind prompts is computed; beyond, the formula diverges."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica at one arrival rate; all figures are means unless they say otherwise.

    Attributes:
        arrivals_rps: requests per second.
        running: running requests.
        memory_fill: share of the blocks in use.
        tpot_s: seconds per output token after the first.
        ttft_s: seconds to the first token.
        ttft_p99_s: 99th percentile of it, an estimate.
        answer_tpot_s: mean over answers of a request's seconds per output token after the first. It counts
            the prompts that wait when an answer begins, which a short answer meets in its few steps.
        ttft_p99_high_s: 99th percentile of the time to first token where prompts queue behind each other; at
            least `ttft_s`.
        ttft_p99_alone_s: 99th percentile of the time of a prompt's own steps, without any waiting.
    """

    arrivals_rps: float
    running: float
    memory_fill: float
    tpot_s: float
    ttft_s: float
    ttft_p99_s: float
    answer_tpot_s: float
    ttft_p99_high_s: float
    ttft_p99_alone_s: float


@dataclass(frozen=True, slots=True)
class _Pace:
    """What happens in a second, and in the life of a request, at a number of running requests."""

    step_s: float
    running: float
    memory_fill: float
    prompt_s: float
    prompt_squared_s2: float
    longest_prompt_s: float
    rest_s: float
    full_busy: float
    chunks_s: float
    work_s: float
    work_squared_s2: float


class ReplicaModel:
    """A replica under Poisson arrivals of a length law, at any rate below what it sustains.

    Args:
        law: joint law of prompt and output length.
        shape: memory and limits of the replica.
        step_time: seconds of a step.
        cached_prompt_share: share of prompt tokens found in the prefix cache, in [0, 1).

    Raises:
        ValueError: a share outside [0, 1), or a law of which no request fits.
    """

    def __init__(
        self, law: LengthLaw, shape: ReplicaShape, step_time: StepTime, *, cached_prompt_share: float = 0.0
    ) -> None:
        if not 0.0 <= cached_prompt_share < 1.0:
            raise ValueError("cached_prompt_share must be in [0, 1)")
        points, _ = admissible(law, shape.longest_tokens)
        full = saturated(points, shape, cached_prompt_share)
        mix = step_mix(points, shape, full, step_time, cached_prompt_share)
        self.sustainable_rps = full.requests_per_step / mix.mean_s
        self._most_running = full.running
        self._points = _grouped(points)
        self._shape = shape
        self._step_time = step_time
        self._cached = cached_prompt_share
        mean_o = math.fsum(w * o for _, o, w in points)
        self._output_spread = math.fsum(w * o * o for _, o, w in points) / mean_o**2

    def at(self, arrivals_rps: float, *, replicas: int = 1) -> ReplicaState | None:
        """Predict the replica at a rate; None at or beyond what it sustains.

        Args:
            arrivals_rps: requests per second at this replica.
            replicas: among how many a round-robin router shares a Poisson process. With several, arrivals at
                each are more even, which `answer_tpot_s` and `ttft_p99_high_s` take into account.

        Raises:
            ValueError: a rate that is not positive and finite.
        """
        if not 0.0 < arrivals_rps < math.inf:
            raise ValueError("arrivals_rps must be > 0 and finite")
        if arrivals_rps >= self.sustainable_rps:
            return None
        low, high = 0.0, self._most_running
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._pace(arrivals_rps, middle).running > middle else (low, middle)
        pace = self._pace(arrivals_rps, high)

        queue_s = arrivals_rps * pace.prompt_squared_s2 / (2.0 * (1.0 - pace.full_busy))
        seat_odds = _erlang_c(max(round(self._most_running), 1), min(high / self._most_running, 0.999))
        seat_s = self._output_spread / (2.0 * (self.sustainable_rps - arrivals_rps))
        seat_tail = seat_s * math.log(max(seat_odds / _TAIL, 1.0))
        queue_tail = queue_s * math.log(max(pace.full_busy / _TAIL, 1.0)) / max(pace.full_busy, _TAIL)
        ttft_s = pace.prompt_s + queue_s + seat_odds * seat_s + 0.5 * pace.step_s
        ttft_p99_s = max(
            pace.longest_prompt_s + queue_s + pace.rest_s, pace.prompt_s + max(seat_tail, queue_tail)
        )
        # G/G/c: behind a round-robin router 1/replicas takes the place of Poisson's 1 in 1 + cv^2.
        evenness = (self._output_spread - 1.0 + 1.0 / replicas) / self._output_spread
        work_tail = _work_tail(arrivals_rps, pace, replicas)
        return ReplicaState(
            arrivals_rps=arrivals_rps,
            running=high,
            memory_fill=pace.memory_fill,
            tpot_s=pace.step_s,
            ttft_s=ttft_s,
            ttft_p99_s=ttft_p99_s,
            ttft_p99_alone_s=pace.longest_prompt_s,
            answer_tpot_s=pace.step_s + self._prompts_met_s(arrivals_rps, pace, replicas),
            ttft_p99_high_s=max(
                ttft_s,
                pace.longest_prompt_s + queue_s + pace.rest_s * self._odds_of_a_step(arrivals_rps, pace),
                pace.prompt_s + max(evenness * seat_tail, queue_tail),
                pace.prompt_s + work_tail,
                pace.longest_prompt_s + 0.5 * work_tail + pace.step_s,
            ),
        )

    @staticmethod
    def _odds_of_a_step(arrivals_rps: float, pace: _Pace) -> float:
        """Return how far the slowest hundredth of prompts meets another's step: not at all when idle."""
        return min(arrivals_rps * pace.work_s / (10.0 * _TAIL), 1.0)

    def _prompts_met_s(self, arrivals_rps: float, pace: _Pace, replicas: int) -> float:
        """Return the mean seconds that prompts waiting at an answer's start add to each of its steps.

        While a prompt of P seconds is computed, lambda * P others arrive (fewer behind a round-robin router),
        which are computed during the next steps of its answer: lambda * P^2 seconds, shared by the answer's
        tokens after the first.
        """
        squared_s2 = pace.prompt_squared_s2 + 2.0 * pace.chunks_s * pace.rest_s + pace.rest_s**2
        several = [(o, w) for _, o, w in self._points if o > 1.0]
        weight = math.fsum(w for _, w in several)
        if not weight:
            return 0.0
        evenness = _arrivals_after_one(arrivals_rps * pace.prompt_s, replicas) / (
            arrivals_rps * pace.prompt_s
        )
        return evenness * arrivals_rps * squared_s2 * math.fsum(w / (o - 1.0) for o, w in several) / weight

    def largest_rate_where(self, is_kept: Callable[[ReplicaState], bool]) -> float:
        """Return the largest rate whose state passes a test, 0 when an idle replica does not.

        Args:
            is_kept: the test; it must pass at every rate below one at which it passes.
        """

        def kept(rate: float) -> bool:
            state = self.at(rate)
            return state is not None and is_kept(state)

        low, high = 0.0, self.sustainable_rps
        for _ in range(_RATE_HALVINGS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if kept(middle) else (low, middle)
        return low if kept(max(low, 1e-3 * self.sustainable_rps)) else 0.0

    def _pace(self, arrivals_rps: float, running: float) -> _Pace:
        return _pace(self._points, self._shape, arrivals_rps, running, self._step_time, self._cached)


def _pace(
    points: Points,
    shape: ReplicaShape,
    arrivals_rps: float,
    running: float,
    step_time: StepTime,
    cached_prompt_share: float,
) -> _Pace:
    fresh = 1.0 - cached_prompt_share
    rounding = (shape.block_size - 1) / 2.0
    chunk = max(shape.max_num_batched_tokens - running, 1.0)
    steps, demand = life(points, chunk, fresh, rounding)
    resident = max(running / steps * (demand - steps * rounding), 1.0)
    price = prefill_price(points, running, resident, step_time, cached_prompt_share)
    decode_s = price(0.0)
    chunks = chunks_s = squared_s2 = rest = alone_s = held_s = longest_s = 0.0
    beyond = 1.0
    for s, _, w in points:
        count, left = divmod(fresh * s, chunk)
        context = s * (0.5 + 0.5 * cached_prompt_share)
        full_s = count * price(chunk, context) if count else 0.0
        left_s = price(max(left, 1.0), context)
        chunks += w * count
        chunks_s += w * full_s
        squared_s2 += w * full_s * full_s
        rest += w * left
        alone_s += w * left_s
        held_s += w * (s + rounding) * (full_s + left_s)
        if beyond > _TAIL:
            longest_s = full_s + left_s
        beyond -= w
    full_busy = min(arrivals_rps * chunks_s, 0.99)
    rest_rate, rest_s = _rest_steps(arrivals_rps, full_busy, decode_s, alone_s, rest, chunk, price)
    idle = max(1.0 - full_busy - rest_rate * rest_s, 0.0)
    step_s = 1.0 / (arrivals_rps * chunks + rest_rate + idle / decode_s)
    decode_steps = math.fsum(w * (o - 1.0) for _, o, w in points)
    decode_held = math.fsum(w * ((o - 1.0) * (s + rounding) + o * (o - 1.0) / 2.0) for s, o, w in points)
    # Steps take `decode_s` without a prefill too, but only while requests run: of that time the prefill
    # takes the share that decoding would not have needed.
    spared = decode_s * running / (running + _FEW_RUNNING)
    chunk_work_s = max(chunks_s - chunks * spared, 0.0)
    rest_work_s = max(rest_rate * (rest_s - spared) / arrivals_rps, 0.0)
    scale = (chunk_work_s / chunks_s) ** 2 if chunks_s else 0.0
    return _Pace(
        step_s=step_s,
        running=arrivals_rps * (decode_steps * step_s + chunks_s + rest_s),
        memory_fill=min(arrivals_rps * (decode_held * step_s + held_s) / shape.memory_tokens, 1.0),
        prompt_s=chunks_s + rest_s,
        prompt_squared_s2=squared_s2,
        longest_prompt_s=longest_s,
        rest_s=rest_s,
        full_busy=full_busy,
        chunks_s=chunks_s,
        work_s=chunk_work_s + rest_work_s,
        work_squared_s2=squared_s2 * scale + 2.0 * chunk_work_s * rest_work_s + rest_work_s**2,
    )


def _arrivals_after_one(expected: float, replicas: int) -> float:
    """Return how many arrivals follow one at a replica while `expected` would on average.

    Every `replicas`-th event of a Poisson process arrives there: the sum over k of P(N >= k * replicas), with
    N of the mean expected * replicas.
    """
    if replicas == 1:
        return expected
    mean = expected * replicas
    most = int(mean + 10.0 * math.sqrt(mean) + 10.0)
    probability, below, total, due = math.exp(-mean), 0.0, 0.0, replicas
    for count in range(most + 1):
        if count == due:
            total += 1.0 - below
            due += replicas
        below += probability
        probability *= mean / (count + 1)
    return total


def _work_tail(arrivals_rps: float, pace: _Pace, replicas: int) -> float:
    """Return the 99th percentile of the wait of prompts behind each other.

    As G/G/1 by Kingman's formula, with 1 / replicas for the squared variation of gaps behind a round-robin
    router; with one replica it is M/G/1 (Pollaczek-Khinchine).
    """
    busy = min(arrivals_rps * pace.work_s, _MOST_BUSY)
    if busy <= _TAIL:
        return 0.0
    variation = max(pace.work_squared_s2 / pace.work_s**2 - 1.0, 0.0)
    evenness = (1.0 / replicas + variation) / (1.0 + variation)
    mean_s = evenness * arrivals_rps * pace.work_squared_s2 / (2.0 * (1.0 - busy))
    return mean_s / busy * math.log(busy / _TAIL)


def _rest_steps(
    arrivals_rps: float,
    full_busy: float,
    decode_s: float,
    alone_s: float,
    rest_tokens: float,
    chunk: float,
    price: PrefillPrice,
) -> tuple[float, float]:
    """Return the steps a second for rests of prompts, and the mean seconds of such a step."""
    starts = -math.expm1(-arrivals_rps * decode_s) / decode_s
    seconds = alone_s
    rate = arrivals_rps
    for _ in range(_SETTLING):
        apart = math.exp(-min(arrivals_rps * seconds, 50.0))
        rate = starts * (1.0 - full_busy) / (apart + starts * seconds)
        rate = min(max(rate, arrivals_rps * rest_tokens / chunk), arrivals_rps)
        together = arrivals_rps / rate
        shared = price(min((together + 1.0) * rest_tokens, chunk))
        seconds = alone_s / together + shared * (1.0 - 1.0 / together)
    return rate, seconds


def _erlang_c(servers: int, utilization: float) -> float:
    """Probability of waiting in M/M/c, by the recursion of the Erlang B formula."""
    offered, blocked = servers * utilization, 1.0
    for k in range(1, servers + 1):
        blocked = offered * blocked / (k + offered * blocked)
    return blocked / (1.0 - utilization * (1.0 - blocked))


def _grouped(points: Points) -> Points:
    """Merge points of neighboring prompt lengths into at most `_GROUPS`, in ascending order of the prompt."""
    ordered = sorted(points)
    size = -(-len(ordered) // _GROUPS)
    groups = []
    for start in range(0, len(ordered), size):
        group = ordered[start : start + size]
        weight = math.fsum(w for _, _, w in group)
        prompt = math.fsum(w * s for s, _, w in group) / weight
        groups.append((prompt, math.fsum(w * o for _, o, w in group) / weight, weight))
    return groups
