"""How much a request will still generate, learned from those that finished; O(1) time and memory."""

from __future__ import annotations

from bidkv.protocol.requests import RequestView

_BUCKETS_PER_DOUBLING = 4
_BUCKETS = 24 * _BUCKETS_PER_DOUBLING
_KEEP = 0.999
"""What one more finished request leaves of the weight of the older ones."""
_PRIOR_TOKENS = 200.0
_PRIOR_WEIGHT = 5.0
_PROMPT_CLASSES = 64
_KEEP_IN_CLASS = 0.995
_CLASS_WEIGHT = 10.0
"""Finished requests of one prompt length that count as much as all others together."""


class RemainingTokens:
    """First two moments of the output tokens still to come, given how many came already.

    Finished outputs fall into buckets a fourth of a doubling wide; each bucket keeps a forgetting count, sum
    and sum of squares. A request that generated g tokens is compared with the finished ones longer than g;
    one that generated nothing yet is compared most with those of about its prompt length (within a half to
    a third of it). A stated `max_tokens` bounds both moments.
    """

    __slots__ = ("_by_prompt", "_count", "_grow", "_square", "_sum", "_totals")

    def __init__(self) -> None:
        self._count = [0.0] * _BUCKETS
        self._sum = [0.0] * _BUCKETS
        self._square = [0.0] * _BUCKETS
        # Newer observations weigh more; dividing all older ones at every event would be O(buckets).
        self._grow = 1.0
        self._totals = (0.0, 0.0, 0.0)
        self._by_prompt = [(0.0, 0.0, 0.0)] * _PROMPT_CLASSES

    def learn(self, request: RequestView) -> None:
        """`request` finished with the output tokens it has now."""
        output_tokens = request.num_output_tokens
        kind = _prompt_class(request.num_prompt_tokens)
        seen, first, second = self._by_prompt[kind]
        self._by_prompt[kind] = (
            seen * _KEEP_IN_CLASS + 1.0,
            first * _KEEP_IN_CLASS + output_tokens,
            second * _KEEP_IN_CLASS + output_tokens * output_tokens,
        )
        self._grow /= _KEEP
        if self._grow > 1e12:
            for column in (self._count, self._sum, self._square):
                column[:] = [value / self._grow for value in column]
            self._grow = 1.0
            self._totals = (sum(self._count), sum(self._sum), sum(self._square))
        index, grow = _bucket(output_tokens), self._grow
        added = grow * output_tokens
        self._count[index] += grow
        self._sum[index] += added
        self._square[index] += added * output_tokens
        count, first, second = self._totals
        self._totals = (count + grow, first + added, second + added * output_tokens)

    def moments(self, request: RequestView) -> tuple[float, float]:
        """Return the expected remaining tokens and the expected square of them."""
        done = request.num_output_tokens
        mean, square = self._beyond(done) if done else self._fresh(request.num_prompt_tokens)
        max_tokens = request.max_tokens
        if max_tokens is not None:
            left = float(max(max_tokens - done, 1))
            mean, square = min(mean, left), min(square, left * left)
        return mean, square

    def _fresh(self, prompt_tokens: int) -> tuple[float, float]:
        """Of a request that generated nothing yet: most those of about its prompt length count."""
        count, mean_total, square_total = self._totals
        prior = _PRIOR_WEIGHT * self._grow
        weight = count + prior
        mean = (mean_total + prior * _PRIOR_TOKENS) / weight
        square = (square_total + prior * 2 * _PRIOR_TOKENS * _PRIOR_TOKENS) / weight
        seen, first, second = self._by_prompt[_prompt_class(prompt_tokens)]
        weight = seen + _CLASS_WEIGHT
        return (first + _CLASS_WEIGHT * mean) / weight, (second + _CLASS_WEIGHT * square) / weight

    def _beyond(self, done: int) -> tuple[float, float]:
        """Of a request that generated `done` tokens: those that went on from there count."""
        start = _bucket(done) + 1
        count = sum(self._count[start:])
        mean_total = sum(self._sum[start:])
        square_total = sum(self._square[start:])
        prior = _PRIOR_WEIGHT * self._grow
        # The prior: as much again as was generated, and never less than an ordinary answer.
        guess = max(_PRIOR_TOKENS, float(done))
        weight = count + prior
        mean = (mean_total - done * count + prior * guess) / weight
        square = square_total - 2 * done * mean_total + done * done * count + prior * 2 * guess * guess
        return mean, square / weight


def _bucket(tokens: int) -> int:
    # bit_length finds the doubling; the fraction of it is cut into equal parts.
    doubling = (tokens | 1).bit_length() - 1
    part = (((tokens or 1) - (1 << doubling)) * _BUCKETS_PER_DOUBLING) >> doubling
    index = doubling * _BUCKETS_PER_DOUBLING + part
    return index if index < _BUCKETS else _BUCKETS - 1


def _prompt_class(tokens: int) -> int:
    # Two classes a doubling: 2^k to 1.5 * 2^k, and from there to 2^(k+1).
    doubling = (tokens | 1).bit_length() - 1
    upper_half = (tokens >> (doubling - 1)) & 1 if doubling else 0
    index = 2 * doubling + upper_half
    return index if index < _PROMPT_CLASSES else _PROMPT_CLASSES - 1
