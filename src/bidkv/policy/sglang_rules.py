"""SGLang's own victim rule, and the one that looks at deadlines: both run in any engine."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bidkv.policy.ordering import least
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class SglangDefault(Policy):
    """`sglang_default`: fewest generated tokens go first, then the longest prompt.

    Source: `length` retraction policy of SGLang (`ScheduleBatch._get_decode_retraction_order`).
    """

    name = "sglang_default"
    victim_rule = "the fewest generated tokens, of equals the longest prompt"

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the candidate with the fewest generated tokens; of equals the longest prompt."""
        return least(candidates, lambda request: (request.num_output_tokens, -request.num_prompt_tokens))


class SlackAware(Policy):
    """`slack_aware`: who has the most slack to its deadline goes first.

    slack = deadline - now - predicted remaining service, in seconds. Remaining service is the predicted
    number of tokens still to generate times the mean step time seen so far. A length is predicted by the
    mean of the finished outputs that were longer than what the request has generated (to a power of two),
    its cap being the upper limit; while there is none the cap itself is assumed. A request without a
    deadline has infinite slack; among several of those the one with most left to generate goes first.
    """

    name = "slack_aware"
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
        step_s = self._mean_step_s(engine)
        now_s = engine.now_s
        return least(candidates, lambda request: self._urgency(request, now_s, step_s))

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Return the slack and the predicted tokens left."""
        slack_s, remaining = self._urgency(request, engine.now_s, self._mean_step_s(engine))
        return {"slack_s": -slack_s, "remaining_tokens": -remaining}

    def _urgency(self, request: RequestView, now_s: float, step_s: float) -> tuple[float, float]:
        remaining = self._remaining_tokens(request)
        deadline_s = request.deadline_s
        slack_s = math.inf if deadline_s is None else deadline_s - now_s - remaining * step_s
        return -slack_s, -remaining

    def _remaining_tokens(self, request: RequestView) -> float:
        generated = request.num_output_tokens
        predicted = self._lengths.mean_beyond(generated)
        cap = request.max_tokens
        if predicted is None:
            predicted = float(generated if cap is None else cap)
        elif cap is not None:
            predicted = min(predicted, cap)
        return max(1.0, predicted - generated)

    def _mean_step_s(self, engine: EngineView) -> float:
        if self._since is None:
            return 0.0
        start_s, start_steps = self._since
        steps = engine.num_steps - start_steps
        return (engine.now_s - start_s) / steps if steps > 0 else 0.0


class _FinishedLengths:
    """Lengths of finished outputs in power-of-two buckets: constant memory, O(buckets) a question."""

    __slots__ = ("_counts", "_sums")

    def __init__(self) -> None:
        self._counts = [0] * 40
        self._sums = [0] * 40

    def add(self, length: int) -> None:
        bucket = min(length.bit_length(), len(self._counts) - 1)
        self._counts[bucket] += 1
        self._sums[bucket] += length

    def mean_beyond(self, generated: int) -> float | None:
        """Mean of the lengths whose bucket lies above `generated`'s own; None when there is none."""
        first = generated.bit_length() + 1 if generated else 0
        count = sum(self._counts[first:])
        return sum(self._sums[first:]) / count if count else None


SGLANG_POLICIES: tuple[type[Policy], ...] = (SglangDefault, SlackAware)
