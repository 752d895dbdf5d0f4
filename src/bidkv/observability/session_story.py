"""Why the turns of a session waited, and why its KV was dropped, from a decision log."""

from __future__ import annotations

from collections.abc import Iterable

from bidkv.observability.log_lines import Line, SessionDrop, SessionTurn, SessionWait

SessionLine = SessionTurn | SessionWait | SessionDrop

_RESIDENT_SHARE = 0.5
"""A turn counts as cold if less than this share of its session's past is cached when it enters."""


def read_session(lines: Iterable[Line], session_id: str) -> list[SessionLine]:
    """Return the turns, waits and drops of a session, in order; empty if the log does not know it."""
    return [line for line in lines if isinstance(line, SessionLine) and line.session_id == session_id]


def tell_session(lines: Iterable[SessionLine]) -> list[str]:
    """Return a text for every line: each wait and each turn with its cause, and each drop."""
    told: list[str] = []
    dropped: SessionDrop | None = None
    for line in lines:
        if isinstance(line, SessionDrop):
            dropped = line
            told.append(
                f"{line.time_s:.3f} s: dropped after {line.idle_s:.3f} s idle, {line.dropped_blocks} blocks"
                + (f" of {line.exclusive_blocks}" if line.dropped_blocks < line.exclusive_blocks else "")
                + (f" ({line.why})" if line.why else "")
            )
            continue
        if isinstance(line, SessionWait):
            told.append(
                f"{line.time_s:.3f} s: {line.request_id} has waited {line.waited_s:.3f} s; {line.why}"
            )
            continue
        told.append(
            f"{line.time_s:.3f} s: turn {line.turns} ({line.request_id}) entered after waiting "
            f"{line.waited_s:.3f} s; {_tell_cache(line, dropped)}"
        )
        dropped = None
    return told


def _tell_cache(turn: SessionTurn, dropped: SessionDrop | None) -> str:
    if not turn.past_tokens:
        shared = f", {turn.cached_tokens} of them cached already" if turn.cached_tokens else ""
        return f"cold: the session is new and needed room for {turn.prompt_tokens} tokens{shared}"
    kept = f"{turn.cached_tokens} of {turn.past_tokens} tokens of its past were cached"
    if turn.cached_tokens >= _RESIDENT_SHARE * turn.past_tokens:
        return f"resident: {kept}"
    cause = "the engine had reused them" if dropped is None else f"dropped at {dropped.time_s:.3f} s"
    return f"cold: {kept}, {cause}; it needed room for {turn.prompt_tokens - turn.cached_tokens} tokens"
