"""How full a saturated replica is: requests a step, requests running, preemptions, in closed form.

vLLM admits the head of the queue as soon as the tokens it has now fit, lets running requests grow, and
preempts the last one admitted, which goes back to the front. Memory is therefore handed out strictly in
order of arrival, and the edge of what fits moves along the queue: forward by s + o tokens when a
request ends, back by one token for each running request and step. Three consequences carry the model:

* The edge spends equal time at every position, so the free memory behind it is the mean residual of the
  request it stands in: E[w^2] / (2 E[w]), w being the tokens that request needs to enter.
* Net it moves E[s] forward a request and E[o] back, so each request's place is crossed backwards
  E[o] / E[s] times: that is the mean number of preemptions. Steps in which a request also ends hide a
  share 1 - exp(-x) of them, x being the requests that end in a step; prompts still being computed leave
  reserved memory unused that others may grow into, which hides a share rho, the load of prefill on the
  token budget C.
* That backlog of prompts is the queue M/G/1 (Pollaczek-Khinchine) beyond the prompt in service:
  rho / (1 - rho) * x * E[A^2] / (2 C) tokens, A being the tokens that enter when a request ends.
* A preempted request comes back with what it generated meanwhile; its k tokens follow from the size of
  such an excursion, E[o] tokens shared by N running requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.stability.lengths import LengthLaw

_HALVINGS = 40
# Prefill that takes the whole token budget would have an endless backlog.
_FULL_LOAD = 0.999
# Mean tokens generated before a preemption, in units of E[o] / N.
_EXCURSION = 1.25

Points = Sequence[tuple[float, float, float]]


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """What one replica has to serve with.

    Attributes:
        num_blocks: usable KV blocks (a null block not counted).
        block_size: tokens per block.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: token budget of a step.
        max_model_len: longest prompt + output; None is all of the memory.

    Raises:
        ValueError: a field that is not an integer of at least 1.
    """

    num_blocks: int
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1")
        if self.max_model_len is not None and self.max_model_len < 2:
            raise ValueError("max_model_len must be >= 2 or None")

    @property
    def memory_tokens(self) -> int:
        """M: tokens of KV that fit."""
        return self.num_blocks * self.block_size

    @property
    def longest_tokens(self) -> int:
        """Longest sequence that can run."""
        return min(self.memory_tokens, self.max_model_len or self.memory_tokens)


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The steady state of a saturated replica, counted in steps (seconds play no part in it).

    Attributes:
        requests_per_step: requests that end in a step.
        running: mean number of running requests.
        resident_tokens: mean tokens of KV in use, the unused ends of blocks left out.
        memory_fill: mean share of the blocks in use.
        preemptions_per_request: mean preemptions of a request.
        recomputed_tokens: mean tokens computed again for a request.
        memory_bound: share of time in which memory, not max_num_seqs, keeps the next request out.
    """

    requests_per_step: float
    running: float
    resident_tokens: float
    memory_fill: float
    preemptions_per_request: float
    recomputed_tokens: float
    memory_bound: float


def admissible(law: LengthLaw, longest_tokens: int) -> tuple[list[tuple[float, float, float]], float]:
    """Cut a law to what the engine can run: prompts that fill it are refused, outputs end at the limit.

    Returns:
        The points with weights that sum to 1, and the share of requests refused.

    Raises:
        ValueError: no request of the law fits.
    """
    kept = [(s, min(o, longest_tokens - s), w) for s, o, w in law.sample() if s < longest_tokens]
    total = math.fsum(w for _, _, w in kept)
    if not kept:
        raise ValueError(f"no request of this law fits into {longest_tokens} tokens")
    return [(s, o, w / total) for s, o, w in kept], 1.0 - total


def saturated(points: Points, shape: ReplicaShape, cached_prompt_share: float = 0.0) -> Occupancy:
    """Solve the steady state for a law's points: the number of running requests that reproduces itself."""
    fresh = 1.0 - cached_prompt_share
    memory = shape.memory_tokens
    rounding = (shape.block_size - 1) / 2.0
    mean_s = math.fsum(w * s for s, _, w in points)
    mean_o = math.fsum(w * o for _, o, w in points)
    square_s = math.fsum(w * s * s for s, _, w in points)
    square = math.fsum(w * _sum_of_squares(s, o) for s, o, w in points)
    leaving_square = math.fsum(w * (s + o) ** 2 for s, o, w in points)
    seats = float(shape.max_num_seqs)

    def at(running: float) -> tuple[float, Occupancy]:
        """Return the running requests that memory and seats would allow, were `running` of them there now."""
        chunk = max(shape.max_num_batched_tokens - running, 1.0)
        steps, demand = life(points, chunk, fresh, rounding)
        ended = running / steps
        generated = min(_EXCURSION * mean_o / max(running, 1.0), mean_o / 2.0)
        hidden = math.exp(-ended)
        # Recompute loads the prefill that hides preemptions: one more round settles it well enough.
        load, crossed = min(ended * fresh * mean_s / chunk, _FULL_LOAD), 0.0
        for _ in range(2):
            crossed = hidden * (1.0 - load) * mean_o / (mean_s + rounding)
            computed = fresh * mean_s + crossed * (mean_s + generated)
            load = min(ended * computed / chunk, _FULL_LOAD)
        again = crossed / (1.0 + crossed)
        head = mean_s + again * generated
        head_square = square_s + again * (2.0 * mean_s * generated + generated * generated)
        gap = min(head_square / (2.0 * head), memory / 2.0)
        entering_square = leaving_square * (computed / (mean_s + mean_o)) ** 2
        backlog = load / (1.0 - load) * ended * entering_square / (2.0 * chunk)
        # A preempted request prefills again: mostly one step that holds its memory and yields one token.
        per_memory = steps * max(memory - gap - backlog, 0.0) / (demand + crossed * (mean_s + generated))
        size = demand / steps
        spread = math.sqrt(max(square / steps - size * size, 0.0) * max(per_memory, 1.0)) / size
        bounded, share = _mean_of_smaller(per_memory, spread, seats)
        crossed *= share
        used = ended * (demand + crossed * (mean_s + generated))
        return bounded, Occupancy(
            requests_per_step=ended,
            running=running,
            resident_tokens=max(used - rounding * running, 1.0),
            memory_fill=min(used / memory, 1.0),
            preemptions_per_request=crossed,
            recomputed_tokens=crossed * (mean_s + generated),
            memory_bound=share,
        )

    low, high = 0.0, seats
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if at(middle)[0] >= middle:
            low = middle
        else:
            high = middle
    return at(high)[1]


def life(points: Points, chunk: float, fresh: float, rounding: float) -> tuple[float, float]:
    """Return the mean steps a request takes part in, and the tokens it holds summed over them.

    Args:
        points: the length law's points.
        chunk: tokens of a full prefill step.
        fresh: share of prompt tokens that must be computed.
        rounding: mean unused tokens at the end of its last block.
    """
    steps = demand = 0.0
    for s, o, w in points:
        prefill = math.ceil(fresh * s / chunk)
        steps += w * (prefill + o - 1.0)
        demand += w * ((prefill + o - 1.0) * (s + rounding) + o * (o - 1.0) / 2.0)
    return steps, demand


def _sum_of_squares(prompt: float, output: float) -> float:
    """Sum of the squared sizes prompt, prompt + 1, ..., prompt + output - 1."""
    last = output - 1.0
    return prompt * prompt * output + prompt * last * output + last * output * (2.0 * last + 1.0) / 6.0


def _mean_of_smaller(mean: float, spread: float, cap: float) -> tuple[float, float]:
    """E[min(X, cap)] for a normal X, and the probability that X is the smaller."""
    if spread <= 0.0:
        return min(mean, cap), float(mean < cap)
    z = (cap - mean) / spread
    below = 0.5 * math.erfc(-z / math.sqrt(2.0))
    density = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return min(mean * below + cap * (1.0 - below) - spread * density, mean, cap), below
