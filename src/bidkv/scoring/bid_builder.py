"""From token scores to bids."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from bidkv.protocol import CompressionBid, make_bid_id

_UNKNOWN_CONFIDENCE = 0.5


def build_bids(
    request_id: str,
    token_ids: Sequence[int],
    scores: Sequence[float],
    compression_levels: Sequence[float],
    algorithm_id: str,
    *,
    confidence_fn: Callable[[], float] | None = None,
    latency_factor: float = 0.1,
    extra_metadata: Mapping[str, Any] | None = None,
) -> list[CompressionBid]:
    """Return one bid per compression level: drop the least important tokens first.

    A level of 0.4 offers 40 % of the n tokens, at least one and at most n - 1 (the last token is
    never offered). The expected loss is the mean score of the tokens dropped. A level that frees
    nothing makes no bid, but its index stays used, so that ids do not shift.

    Args:
        request_id: whose tokens these are.
        token_ids: n token ids.
        scores: n finite importances, usually in [0, 1].
        compression_levels: finite shares of the tokens to drop.
        algorithm_id: the compressor that would do it.
        confidence_fn: called once; its value is the confidence of every bid (0.5 without it).
        latency_factor: milliseconds of compression per token freed.
        extra_metadata: further facts each bid carries beside its `compression_level`.

    Raises:
        ValueError: lengths differ, or a score or level is not finite.
    """
    n = len(token_ids)
    if n == 0:
        return []
    if len(scores) != n:
        raise ValueError(f"scores length ({len(scores)}) must match token_ids length ({n})")
    for index, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"scores[{index}] must be finite, got {score}")
    confidence = _UNKNOWN_CONFIDENCE if confidence_fn is None else confidence_fn()
    lowest_sums = list(accumulate(sorted(scores)))
    bids = []
    for index, level in enumerate(compression_levels):
        if not math.isfinite(level):
            raise ValueError(f"compression_levels[{index}] must be finite, got {level}")
        freed = min(max(1, int(n * level)), n - 1)
        if freed <= 0:
            continue
        bids.append(
            CompressionBid(
                make_bid_id(request_id, index),
                request_id,
                algorithm_id,
                freed,
                min(1.0, max(0.0, lowest_sums[freed - 1] / freed)),
                latency_factor * freed,
                confidence,
                {"compression_level": level, **(extra_metadata or {})},
            )
        )
    return bids
