"""Length laws: the joint law of prompt and output length, and the moments a service rate needs of it.

The memory demand of a request with prompt s and output o under prefill chunks of c tokens, in
token-batches (Nie, Si and Zhou, arXiv 2605.04595): with n = ceil(s/c) prefill batches that leave
c, 2c, ..., s tokens resident, and one more resident token in each decode batch,

    g(s, o) = c*n*(n - 1)/2 + s + o*s + o*(o + 1)/2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol


def memory_demand(prompt_tokens: int, output_tokens: int, chunk_tokens: int) -> int:
    """Return g(s, o) in token-batches.

    >>> memory_demand(1024, 1, 512)  # 512 + 1024 while prefilling, 1025 in the decode batch
    2561
    """
    if prompt_tokens < 1 or output_tokens < 0 or chunk_tokens < 1:
        raise ValueError("prompt_tokens and chunk_tokens must be >= 1, output_tokens >= 0")
    batches = -(-prompt_tokens // chunk_tokens)
    prefill = chunk_tokens * batches * (batches - 1) // 2 + prompt_tokens
    return prefill + output_tokens * prompt_tokens + output_tokens * (output_tokens + 1) // 2


class LengthLaw(Protocol):
    """A joint law of prompt and output length."""

    @property
    def draws(self) -> float:
        """Observations the law is estimated from; infinite for one that is given."""

    def mean_memory_demand(self, chunk_tokens: int) -> float:
        """E[g(s, o)] in token-batches for prefill chunks of `chunk_tokens`."""

    def sample(self) -> Sequence[tuple[float, float, float]]:
        """Weighted points (prompt, output, weight) that stand for the law; weights sum to 1."""


@dataclass(frozen=True)
class UniformLaw:
    """Independent integer lengths, uniform between bounds that both belong to the range.

    >>> law = UniformLaw((10, 12), (1, 2))
    >>> exact = sum(memory_demand(s, o, 4) for s in range(10, 13) for o in (1, 2)) / 6
    >>> law.mean_memory_demand(4) == exact
    True
    """

    prompt: tuple[int, int]
    output: tuple[int, int]

    def __post_init__(self) -> None:
        for name, (low, high) in (("prompt", self.prompt), ("output", self.output)):
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be (low, high) with 1 <= low <= high")

    @property
    def draws(self) -> float:
        """Infinite: the law is given."""
        return math.inf

    def mean_memory_demand(self, chunk_tokens: int) -> float:
        """E[g] from power sums; the sums are exact integers, so only the divisions round."""
        if chunk_tokens < 1:
            raise ValueError("chunk_tokens must be >= 1")
        (low, high), (first, last) = self.prompt, self.output
        prompts, outputs = high - low + 1, last - first + 1
        prompt_sum = _sum_to(high) - _sum_to(low - 1)
        output_sum = _sum_to(last) - _sum_to(first - 1)
        output_squares = _squares_to(last) - _squares_to(first - 1)
        earlier = _chunk_sum_to(high, chunk_tokens) - _chunk_sum_to(low - 1, chunk_tokens)
        return (
            (earlier + prompt_sum) / prompts
            + (prompt_sum / prompts) * (output_sum / outputs)
            + (output_squares + output_sum) / (2 * outputs)
        )

    def sample(self, points: int = 24) -> Sequence[tuple[float, float, float]]:
        """Midpoints of a grid of `points` by `points` equally likely cells."""
        prompts, outputs = _midpoints(*self.prompt, points), _midpoints(*self.output, points)
        weight = 1.0 / (len(prompts) * len(outputs))
        return [(s, o, weight) for s in prompts for o in outputs]


@dataclass(frozen=True)
class EmpiricalLaw:
    """Observed (prompt, output) pairs, each with a weight (equal when none are given).

    Attributes:
        pairs: (prompt, output) in tokens.
        weights: positive, of any sum.
        observations: how many requests stand behind the pairs, where that is not one each.

    Raises:
        ValueError: no pair, a length below 1, or a weight that is not positive.
    """

    pairs: tuple[tuple[int, int], ...]
    weights: tuple[float, ...] | None = None
    observations: int | None = None

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("an empirical law needs at least one (prompt, output) pair")
        if any(s < 1 or o < 1 for s, o in self.pairs):
            raise ValueError("prompt and output lengths must be >= 1")
        if self.weights is not None and (
            len(self.weights) != len(self.pairs) or not all(0.0 < w < math.inf for w in self.weights)
        ):
            raise ValueError("weights must be positive and finite, one for each pair")

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]]) -> EmpiricalLaw:
        """Build a law from any iterable of (prompt, output)."""
        return cls(tuple(pairs))

    @property
    def draws(self) -> float:
        """Observations behind the law."""
        return self.observations or len(self.pairs)

    @cached_property
    def _weighted(self) -> tuple[tuple[int, int, float], ...]:
        weights = self.weights or (1.0,) * len(self.pairs)
        total = math.fsum(weights)
        return tuple((s, o, w / total) for (s, o), w in zip(self.pairs, weights, strict=True))

    def mean_memory_demand(self, chunk_tokens: int) -> float:
        """E[g], one term a pair."""
        return math.fsum(w * memory_demand(s, o, chunk_tokens) for s, o, w in self._weighted)

    def sample(self) -> Sequence[tuple[float, float, float]]:
        """Every pair with its weight."""
        return self._weighted


def _sum_to(n: int) -> int:
    return n * (n + 1) // 2


def _squares_to(n: int) -> int:
    return n * (n + 1) * (2 * n + 1) // 6


def _chunk_sum_to(n: int, chunk: int) -> int:
    """Sum over s = 1..n of chunk*k*(k - 1)/2 with k = ceil(s/chunk)."""
    full, rest = divmod(n, chunk)
    return chunk * (chunk * (full - 1) * full * (full + 1) // 6 + rest * full * (full + 1) // 2)


def _midpoints(low: int, high: int, points: int) -> list[float]:
    cells = min(points, high - low + 1)
    width = (high - low + 1) / cells
    return [low - 0.5 + width * (i + 0.5) for i in range(cells)]
