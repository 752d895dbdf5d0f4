"""The check of a policy's own preemption cap."""

from __future__ import annotations


def validate_cap(limit: int | None) -> int | None:
    """Return `limit`, the most preemptions one request may suffer from a policy; None means no fixed limit.

    Raises:
        ValueError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"preemption cap must be >= 1 or None, got {limit}")
    return limit
