"""The victim whose recompute costs least."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

ALIKE = 1.5
"""Recompute costs within this factor count as equal. Always preempting the very cheapest of nearly equal
requests would keep the same few of them out again and again."""


def cheapest_to_recompute(candidates: Sequence[RequestView], engine: EngineView) -> RequestView:
    """Return the most recent candidate whose computed tokens are within 1.5x of the fewest; O(candidates).

    `candidates` holds at least one request, the most recently admitted last.
    """
    computed = engine.column(candidates, "num_computed_tokens")
    limit = ALIKE * min(computed)
    place = len(computed) - 1
    while computed[place] > limit:
        place -= 1
    return candidates[place]
