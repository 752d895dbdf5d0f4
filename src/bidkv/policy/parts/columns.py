"""One figure of many requests at once, for policies that weigh every candidate.

Among 2,000 candidates reading figures one by one takes longer than weighing them. An engine may offer, beyond
its view, a method `column(requests, figure)` that reads them together; where it does not, the views are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Literal

from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView

Figure = Literal["freed_blocks", "num_computed_tokens", "num_output_tokens"]
"""What :func:`column` reads: a request's own figures, and the blocks that preempting it would free."""


def column(requests: Sequence[RequestView], figure: Figure, engine: EngineView) -> Sequence[int]:
    """Return a figure of each of the running `requests`, in their order."""
    together = getattr(engine, "column", None)
    if together is not None:
        figures: Sequence[int] = together(requests, figure)
        return figures
    if figure == "freed_blocks":
        return [engine.freed_blocks(request) for request in requests]
    return list(map(attrgetter(figure), requests))


def last_least(requests: Sequence[RequestView], keys: Sequence[Any]) -> RequestView:
    """Return the request with the smallest key; ties go to the later one, as an engine's own rule would.

    Both sequences hold one entry a request, and at least one.
    """
    from_behind = keys[::-1]
    return requests[-1 - from_behind.index(min(keys))]
