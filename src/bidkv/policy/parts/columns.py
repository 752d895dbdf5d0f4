"""Choices over one figure of many requests at once, for policies that weigh every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bidkv.protocol.requests import RequestView


def last_least(requests: Sequence[RequestView], keys: Sequence[Any]) -> RequestView:
    """Return the request with the smallest key; ties go to the later one, as an engine's own rule would.

    Both sequences hold one entry a request, and at least one.
    """
    from_behind = keys[::-1]
    return requests[-1 - from_behind.index(min(keys))]
