"""Random victims, each compressed by a fixed share: the baseline without any knowledge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from bidkv.baselines.base import BaselineStrategy, CompressionAction, RequestState, take_until


class StaticRandomStrategy(BaselineStrategy):
    """Compresses requests in random order by a fixed share of their tokens.

    Args:
        compression_ratio: share of a victim's tokens to free, in (0, 1].
        seed: makes the sequence of orders repeatable; None draws from the operating system.

    Raises:
        ValueError: `compression_ratio` is out of range.
    """

    def __init__(self, *, compression_ratio: float = 0.5, seed: int | None = None) -> None:
        if not 0.0 < compression_ratio <= 1.0:
            raise ValueError(f"compression_ratio must be in (0, 1], got {compression_ratio}")
        self._compression_ratio = compression_ratio
        self._rng = random.Random(seed)

    @property
    def name(self) -> str:
        """`static-random`."""
        return "static-random"

    def select_victims(
        self, candidates: Sequence[RequestState], needed_tokens: int, **kwargs: Any
    ) -> list[CompressionAction]:
        """Compress requests in a freshly drawn order; requests that hold nothing are skipped."""
        if needed_tokens <= 0 or not candidates:
            return []  # before the draw, so that a call that needs nothing does not advance the sequence
        order = list(candidates)
        self._rng.shuffle(order)
        actions = [
            CompressionAction(
                request.request_id,
                "compress",
                max(1, int(request.current_tokens * self._compression_ratio)),
                {"strategy": self.name, "compression_ratio": self._compression_ratio},
            )
            for request in order
            if request.current_tokens > 0
        ]
        return take_until(actions, needed_tokens)
