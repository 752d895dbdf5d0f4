"""The check of a policy's preemption cap."""

from __future__ import annotations


def validate_cap(cap: int | None) -> int | None:
    """Return `cap`, the most preemptions one request may suffer from a policy; None means no fixed limit.

    Raises:
        ValueError: `cap` is below 1.
    """
    if cap is not None and cap < 1:
        raise ValueError(f"preemption cap must be >= 1 or None, got {cap}")
    return cap
