"""Writing sessions in the formats that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from bidkv.protocol.sessions import Session
from bidkv.workloads.traces.formats import bailian, mooncake_sessions, tracelab

_WRITERS: dict[str, Callable[[Iterable[Session], str | Path], int]] = {
    "mooncake-sessions": mooncake_sessions.write,
    "bailian": bailian.write,
    "tracelab": tracelab.write,
}
SESSION_FORMATS = tuple(_WRITERS)


def write_sessions(
    sessions: Iterable[Session], path: str | Path, trace_format: str = "mooncake-sessions"
) -> int:
    """Write sessions to `path`, all or nothing.

    Args:
        sessions: at least one.
        path: the file; its folder must exist.
        trace_format: one of `SESSION_FORMATS`. Only "mooncake-sessions" holds everything a session has.

    Returns:
        How many turns were written.

    Raises:
        ValueError: an unknown format, no session, or sessions that the format cannot hold.
        OSError: the file cannot be written.
    """
    writer = _WRITERS.get(trace_format)
    if writer is None:
        raise ValueError(f"expected one of {', '.join(_WRITERS)}, found {trace_format!r:.60}")
    return writer(sessions, path)
