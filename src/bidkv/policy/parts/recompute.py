"""Whom a preemption costs least: the victim rule of this project's own policies."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

ALIKE = 1.5
"""Costs of recompute within this factor count as alike."""


def cheapest_to_repeat(candidates: Sequence[RequestView], engine: EngineView) -> RequestView:
    """Return who is cheapest to compute again, the latest of those that cost about as little; O(candidates).

    Cost is the computed tokens. Where all hold about as many, the very fewest say little, and preempting
    always them keeps the same requests out again and again.

    `candidates` holds at least one request.
    """
    computed = engine.column(candidates, "num_computed_tokens")
    limit = ALIKE * min(computed)
    place = len(computed) - 1
    while computed[place] > limit:
        place -= 1
    return candidates[place]
