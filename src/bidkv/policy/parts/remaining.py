"""How many tokens a request will still generate, learned from the requests before it; O(1) an event."""

from __future__ import annotations

from functools import lru_cache

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

_BUCKETS_PER_DOUBLING = 4
_BUCKETS = 24 * _BUCKETS_PER_DOUBLING
_KEEP = 0.999
"""Weight that one more finished request leaves the older ones: about 1,000 are remembered, enough for the
tail."""
_PRIOR_TOKENS = 200.0
"""Output length assumed before anything finished: an ordinary chat answer."""
_PRIOR_WEIGHT = 5.0
"""Finished requests that the assumed length counts for."""
_PROMPT_CLASSES = 64
_KEEP_IN_CLASS = 0.98
"""The same within a class of prompt lengths: about 50, so that a changed law is followed within seconds."""
_HALF_CERTAIN = 32.0
"""Finished requests after which an estimate is trusted half."""
_CLASS_WEIGHT = 2.0
"""Finished requests of one prompt class that count as much as all other classes together, and after which an
estimate for the class is trusted half as much as with many."""


class _PromptClass:
    """What is known of the outputs behind prompts of about one length.

    `seen`, `first` and `second` are the forgetting count, sum and sum of squares of finished outputs.
    A running request has generated about `num_steps - start` tokens, so the counts of running requests and of
    their starts give what all of them generated so far, without a visit to each.
    """

    __slots__ = ("first", "paused_tokens", "running", "second", "seen", "starts")

    def __init__(self) -> None:
        self.seen = self.first = self.second = 0.0
        self.running = self.starts = self.paused_tokens = 0

    def finish(self, output_tokens: int) -> None:
        self.seen = self.seen * _KEEP_IN_CLASS + 1.0
        self.first = self.first * _KEEP_IN_CLASS + output_tokens
        self.second = self.second * _KEEP_IN_CLASS + output_tokens * output_tokens

    def moments(self, mean: float, square: float, num_steps: int) -> tuple[float, float]:
        """Blend the class with the `mean` and the mean `square` of all requests."""
        weight = self.seen + _CLASS_WEIGHT
        own_mean = (self.first + _CLASS_WEIGHT * mean) / weight
        own_square = (self.second + _CLASS_WEIGHT * square) / weight
        # The short outputs of a class finish first. While few have finished, what the others have generated
        # without an end counts too, as in the estimate of an exponential law from incomplete lives.
        unfinished = self.running * num_steps - self.starts + self.paused_tokens
        if unfinished > 0:
            grown = 1.0 + unfinished * _CLASS_WEIGHT / (weight * weight * own_mean)
            return own_mean * grown, own_square * grown * grown
        return own_mean, own_square


class RemainingTokens:
    """First two moments of the output tokens still to come, given how many came already.

    Finished outputs fall into buckets a fourth of a doubling wide; each bucket keeps a forgetting count, sum
    and sum of squares. A request that has generated g tokens is compared with the finished ones longer than
    g. One that has generated nothing yet is compared mostly with those of about its prompt length (within a
    half to a third of it). A stated `max_tokens` bounds both moments.

    Attributes:
        num_finished: requests learned from so far.
        mean_tokens: mean output of all finished requests, the assumed length included.
    """

    __slots__ = (
        "_classes",
        "_count",
        "_end",
        "_grow",
        "_mean_square",
        "_square",
        "_starts",
        "_sum",
        "_totals",
        "mean_tokens",
        "num_finished",
    )

    def __init__(self) -> None:
        self._end = 0  # the buckets from here on are empty
        self._count = [0.0] * _BUCKETS
        self._sum = [0.0] * _BUCKETS
        self._square = [0.0] * _BUCKETS
        # Newer observations weigh more; dividing all older ones at every event would be O(buckets).
        self._grow = 1.0
        self._classes = [_PromptClass() for _ in range(_PROMPT_CLASSES)]
        self._starts: dict[str, int] = {}  # of the running requests
        self._totals = (0.0, 0.0, 0.0)
        self.num_finished = 0
        self.mean_tokens = _PRIOR_TOKENS
        self._mean_square = 2 * _PRIOR_TOKENS * _PRIOR_TOKENS

    @property
    def certainty(self) -> float:
        """How far estimates can be trusted: 0 before anything finished, half after 32 requests, towards 1."""
        return self.num_finished / (self.num_finished + _HALF_CERTAIN)

    def certainty_of(self, request: RequestView) -> float:
        """How far the estimate of a new request can be trusted: less while few of its class finished."""
        finished = self.num_finished
        seen = self._classes[_prompt_class(request.num_prompt_tokens)].seen
        return finished / (finished + _HALF_CERTAIN) * seen / (seen + _CLASS_WEIGHT)

    def admit(self, request: RequestView, engine: EngineView, done: int | None = None) -> None:
        """`request`, which has generated `done` tokens, runs from now on."""
        kind = self._classes[_prompt_class(request.num_prompt_tokens)]
        if done is None:
            done = request.num_output_tokens
        start = self._starts[request.request_id] = engine.num_steps - done
        kind.running += 1
        kind.starts += start
        kind.paused_tokens -= done

    def preempt(self, request: RequestView) -> None:
        """`request` waits again, with what it has generated."""
        output_tokens = request.num_output_tokens
        self._stop(request, output_tokens).paused_tokens += output_tokens

    def leave(self, request: RequestView, *, completed: bool) -> None:
        """`request` left the engine; a completed one is learned from."""
        output_tokens = request.num_output_tokens
        kind = self._stop(request, output_tokens)
        if completed:
            kind.finish(output_tokens)
            self._learn(output_tokens)

    def _stop(self, request: RequestView, output_tokens: int) -> _PromptClass:
        kind = self._classes[_prompt_class(request.num_prompt_tokens)]
        start = self._starts.pop(request.request_id, None)
        if start is not None:
            kind.running -= 1
            kind.starts -= start
        else:  # aborted while it waited
            kind.paused_tokens -= output_tokens
        return kind

    def _learn(self, output_tokens: int) -> None:
        self.num_finished += 1
        grow = self._grow / _KEEP
        if grow > 1e12:
            for column in (self._count, self._sum, self._square):
                column[:] = [value / grow for value in column]
            grow = 1.0
            self._totals = (sum(self._count), sum(self._sum), sum(self._square))
        self._grow = grow
        index = _bucket(output_tokens)
        added = grow * output_tokens
        squares = added * output_tokens
        if index >= self._end:
            self._end = index + 1
        self._count[index] += grow
        self._sum[index] += added
        self._square[index] += squares
        count, first, second = self._totals
        count, first, second = count + grow, first + added, second + squares
        self._totals = (count, first, second)
        # With the assumed length.
        prior = _PRIOR_WEIGHT * grow
        weight = count + prior
        self.mean_tokens = (first + prior * _PRIOR_TOKENS) / weight
        self._mean_square = (second + prior * 2 * _PRIOR_TOKENS * _PRIOR_TOKENS) / weight

    def moments(
        self, request: RequestView, engine: EngineView, done: int | None = None
    ) -> tuple[float, float]:
        """Return the expected remaining tokens and the expected square of them, after `done` tokens."""
        if done is None:
            done = request.num_output_tokens
        if done:
            mean, square = self._beyond(done)
        else:
            kind = self._classes[_prompt_class(request.num_prompt_tokens)]
            mean, square = kind.moments(self.mean_tokens, self._mean_square, engine.num_steps)
        max_tokens = request.max_tokens
        if max_tokens is not None:
            left = float(max(max_tokens - done, 1))
            mean, square = min(mean, left), min(square, left * left)
        return mean, square

    def _beyond(self, done: int) -> tuple[float, float]:
        """Moments of a request that has generated `done` tokens, from those that went on beyond it."""
        start, end = _bucket(done) + 1, self._end
        count = sum(self._count[start:end])
        mean_total = sum(self._sum[start:end])
        square_total = sum(self._square[start:end])
        prior = _PRIOR_WEIGHT * self._grow
        # The prior: as much again as was generated, and never less than an ordinary answer.
        guess = max(_PRIOR_TOKENS, float(done))
        weight = count + prior
        mean = (mean_total - done * count + prior * guess) / weight
        square = square_total - 2 * done * mean_total + done * done * count + prior * 2 * guess * guess
        return mean, square / weight


@lru_cache(maxsize=4096)
def _bucket(tokens: int) -> int:
    # bit_length finds the doubling; the fraction of it is cut into equal parts.
    doubling = (tokens | 1).bit_length() - 1
    part = (((tokens or 1) - (1 << doubling)) * _BUCKETS_PER_DOUBLING) >> doubling
    index = doubling * _BUCKETS_PER_DOUBLING + part
    return index if index < _BUCKETS else _BUCKETS - 1


@lru_cache(maxsize=4096)  # asked at every event of a request
def _prompt_class(tokens: int) -> int:
    # Two classes a doubling: 2^k to 1.5 * 2^k, and from there to 2^(k+1).
    doubling = (tokens | 1).bit_length() - 1
    upper_half = (tokens >> (doubling - 1)) & 1 if doubling else 0
    index = 2 * doubling + upper_half
    return index if index < _PROMPT_CLASSES else _PROMPT_CLASSES - 1
