"""Importance from position alone, sharpened by observed attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bidkv.protocol import CompressionBid
from bidkv.scoring.bid_builder import build_bids

_SINK_PEAK = 0.8
_SINK_SPAN = 0.05  # share of the sequence over which the sink decays by 1/e
_RECENCY_PEAK = 0.6
_HEAVY_FLOOR = 0.7
_RECENT_FLOOR = 0.6
_COLD_CONFIDENCE = 0.3
# Two ratios such as 0.58 and 0.42 may add up to one bit more than 1.
_RATIO_TOLERANCE = 1e-9


class PositionalScoring:
    """Attention sink plus recency, and heavy hitters once attention has been seen.

    Without attention, token i of n scores clamp01(max(0.8 exp(-i / max(1, 0.05 n)),
    0.6 i / max(1, n - 1))): the first tokens act as attention sinks (Xiao et al. 2023,
    "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453), the last ones are
    recent. With accumulated attention over at least n positions, scores are the attention over its
    maximum; the most attended tokens (heavy hitters) get at least 0.7, the last ones at least 0.6.

    One object follows one sequence; it is not thread-safe.

    Args:
        heavy_ratio: share of the tokens treated as heavy hitters, in [0, 1].
        recent_ratio: share of the tokens treated as recent, in [0, 1].
        algorithm_id: the name its bids carry.

    Raises:
        ValueError: a ratio is out of range, or both exceed 1 together.

    >>> tuple(round(s, 6) for s in PositionalScoring().score([11, 12]))
    (0.8, 0.6)
    """

    __slots__ = ("_algorithm_id", "_attention", "_decode_steps", "_heavy_ratio", "_recent_ratio")

    def __init__(
        self, *, heavy_ratio: float = 0.2, recent_ratio: float = 0.2, algorithm_id: str = "positional"
    ) -> None:
        if not 0.0 <= heavy_ratio <= 1.0:
            raise ValueError(f"heavy_ratio must be in [0, 1], got {heavy_ratio}")
        if not 0.0 <= recent_ratio <= 1.0:
            raise ValueError(f"recent_ratio must be in [0, 1], got {recent_ratio}")
        if heavy_ratio + recent_ratio > 1.0 + _RATIO_TOLERANCE:
            raise ValueError(f"heavy_ratio + recent_ratio must be <= 1.0, got {heavy_ratio + recent_ratio}")
        self._heavy_ratio = heavy_ratio
        self._recent_ratio = recent_ratio
        self._algorithm_id = algorithm_id
        self._attention: list[float] = []
        self._decode_steps = 0

    @property
    def heavy_ratio(self) -> float:
        """Share of the tokens treated as heavy hitters."""
        return self._heavy_ratio

    @property
    def recent_ratio(self) -> float:
        """Share of the tokens treated as recent."""
        return self._recent_ratio

    @property
    def decode_steps(self) -> int:
        """Attention patterns accumulated since the start or the last :meth:`reset`."""
        return self._decode_steps

    def update_from_decode_step(self, pattern: Sequence[float]) -> None:
        """Add one decode step's attention, one weight per position; an empty pattern changes nothing.

        Raises:
            ValueError: a weight is not finite; nothing is added then.
        """
        if len(pattern) == 0:
            return
        for index, weight in enumerate(pattern):
            if not math.isfinite(weight):
                raise ValueError(f"attention pattern[{index}] must be finite, got {weight}")
        self._attention.extend([0.0] * (len(pattern) - len(self._attention)))
        for index, weight in enumerate(pattern):
            self._attention[index] += weight
        self._decode_steps += 1

    def score(self, token_ids: Sequence[int], **context: Any) -> list[float]:
        """Return one importance in [0, 1] per token.

        Args:
            token_ids: n token ids.
            **context: `attention_pattern` (a sequence of weights) is accumulated first; other keys
                are for other scorers and ignored.
        """
        pattern = context.get("attention_pattern")
        if pattern is not None:
            self.update_from_decode_step(pattern)
        n = len(token_ids)
        if n == 0:
            return []
        if len(self._attention) >= n:
            return self._score_by_attention(n)
        return [_positional_score(i, n) for i in range(n)]

    def generate_bids(
        self, request_id: str, token_ids: Sequence[int], compression_levels: Sequence[float], **context: Any
    ) -> list[CompressionBid]:
        """Score the tokens and build one bid per compression level; see :func:`build_bids`."""
        scores = self.score(token_ids, **context)
        return build_bids(
            request_id,
            token_ids,
            scores,
            compression_levels,
            self._algorithm_id,
            confidence_fn=self._confidence,
            extra_metadata={
                "heavy_ratio": self._heavy_ratio,
                "recent_ratio": self._recent_ratio,
                "decode_steps": self._decode_steps,
                "scoring_method": "positional",
            },
        )

    def reset(self) -> None:
        """Forget all attention: a new sequence begins."""
        self._attention.clear()
        self._decode_steps = 0

    def _confidence(self) -> float:
        if self._decode_steps == 0:
            return _COLD_CONFIDENCE
        return min(1.0, 0.5 + 0.1 * math.log(1 + self._decode_steps))

    def _score_by_attention(self, n: int) -> list[float]:
        window = self._attention[:n]
        peak = max(window)
        scores = [_clamp01(value / peak) for value in window] if peak > 0 else [0.0] * n
        # sorted() is stable, so equal attention favors the lower index.
        heavy = sorted(range(n), key=lambda i: -window[i])[: max(1, int(n * self._heavy_ratio))]
        for i in heavy:
            scores[i] = max(scores[i], _HEAVY_FLOOR)
        for i in range(n - max(1, int(n * self._recent_ratio)), n):
            scores[i] = max(scores[i], _RECENT_FLOOR)
        return scores


def _positional_score(i: int, n: int) -> float:
    sink = _SINK_PEAK * math.exp(-i / max(1.0, _SINK_SPAN * n))
    # A single token is both the first and the last one.
    recency = _RECENCY_PEAK if n == 1 else _RECENCY_PEAK * i / (n - 1)
    return _clamp01(max(sink, recency))


def _clamp01(value: float) -> float:
    return min(1.0, max(0.0, value))
