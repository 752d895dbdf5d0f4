"""SGLang's own victim rule, and a rule that looks at deadlines. Both run in any engine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bidkv.policy.parts.columns import last_least
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class SglangDefault(Policy):
    """`sglang-default`: preempt the fewest generated tokens, of equals the longest prompt.

    Source: `length` retraction policy of SGLang (`ScheduleBatch._get_decode_retraction_order`).
    """

    name = "sglang-default"
    victim_rule = "the fewest generated tokens, of equals the longest prompt"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest generated tokens; of equals the longest prompt."""
        done = engine.column(candidates, "num_output_tokens")
        fewest = min(done)
        tied = [request for request, tokens in zip(candidates, done, strict=True) if tokens == fewest]
        return last_least(tied, [-request.num_prompt_tokens for request in tied])


class SlackAware(Policy):
    """`slack-aware`: preempt the request with the most slack to its deadline.

    slack = deadline - now - predicted remaining service, in seconds. Remaining service is the predicted
    number of tokens still to generate times the mean step time seen so far. The predicted length is the
    mean of the finished outputs longer than what the request has generated (to a power of two), at most
    its cap; before any output was longer, it is the cap. A request without a deadline has infinite slack;
    among several of those, the one with most left to generate is preempted first.
    """

    name = "slack-aware"
    victim_rule = "the most slack to its deadline"

    def __init__(self) -> None:
        self._lengths = _FinishedLengths()
        self._since: tuple[float, int] | None = None

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Start the measurement of the mean step time."""
        if self._since is None:
            self._since = (engine.now_s, engine.num_steps)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn from an output's length."""
        if completed:
            self._lengths.add(request.num_output_tokens)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the most slack."""
        return self._most_slack(candidates, engine)[0]

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the slack and the predicted tokens left."""
        _, slack_s, remaining = self._most_slack([request], engine)
        return {"slack_s": slack_s, "remaining_tokens": remaining}

    def _most_slack(
        self, candidates: Sequence[RequestView], engine: EngineView
    ) -> tuple[RequestView, float, float]:
        """The candidate with the most slack, its slack in seconds and its tokens left; one loop, no calls."""
        now_s = engine.now_s
        step_s = self._mean_step_s(engine)
        means = self._lengths.means_beyond
        chosen, most_slack_s, most_remaining = candidates[-1], -math.inf, 0.0
        done = engine.column(candidates, "num_output_tokens")
        for request, generated in zip(candidates, done, strict=True):
            predicted = means[generated.bit_length()]
            cap = request.max_tokens
            if predicted is None:
                predicted = generated if cap is None else cap
            elif cap is not None and cap < predicted:
                predicted = cap
            remaining = predicted - generated
            if remaining < 1.0:
                remaining = 1.0
            deadline_s = request.deadline_s
            slack_s = math.inf if deadline_s is None else deadline_s - now_s - remaining * step_s
            if slack_s > most_slack_s or (slack_s == most_slack_s and remaining >= most_remaining):
                chosen, most_slack_s, most_remaining = request, slack_s, remaining
        return chosen, most_slack_s, most_remaining

    def _mean_step_s(self, engine: EngineView) -> float:
        if self._since is None:
            return 0.0
        start_s, start_steps = self._since
        steps = engine.num_steps - start_steps
        return (engine.now_s - start_s) / steps if steps > 0 else 0.0


class _FinishedLengths:
    """Lengths of finished outputs in power-of-two buckets: constant memory, O(buckets) a new length.

    Attributes:
        means_beyond: by the bit length of the tokens a request has generated, the mean of the lengths in the
            buckets above its own (of all lengths while it has none); None where there is none.
    """

    __slots__ = ("_counts", "_sums", "means_beyond")

    def __init__(self) -> None:
        self._counts = [0] * 40
        self._sums = [0] * 40
        self.means_beyond: list[float | None] = [None] * 64

    def add(self, length: int) -> None:
        bucket = min(length.bit_length(), len(self._counts) - 1)
        self._counts[bucket] += 1
        self._sums[bucket] += length
        count = total = 0
        for index in range(len(self._counts) - 1, 0, -1):
            self.means_beyond[index] = total / count if count else None
            count += self._counts[index]
            total += self._sums[index]
        count, total = count + self._counts[0], total + self._sums[0]
        self.means_beyond[0] = total / count


SGLANG_POLICIES: tuple[type[Policy], ...] = (SglangDefault, SlackAware)
