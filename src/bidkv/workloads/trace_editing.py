"""Traces changed and written: converted to another format, cut, and made anonymous."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads.chunk_sizes import ChunkConverter
from bidkv.workloads.traces import SESSION_FORMATS, Trace, write_mooncake, write_sessions
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS
from bidkv.workloads.traces.table_writer import TABLE_FORMATS, write_table

WRITTEN_FORMATS = ("mooncake", *TABLE_FORMATS, *SESSION_FORMATS)
"""Formats a trace can be converted to."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a trace holds: single requests, streamed, or sessions.

    Attributes:
        requests: in order of arrival; None for sessions.
        sessions: in the order in which they start; None for single requests.
    """

    requests: Iterable[WorkloadRequest] | None = None
    sessions: Sequence[Session] | None = None


def read_content(trace: Trace, *, rate_rps: float | None = None, as_requests: bool = False) -> Content:
    """Return what a trace holds, with hash ids of 512 tokens where it holds requests.

    Args:
        trace: a trace that was opened.
        rate_rps: for a trace without arrivals, the rate of generated ones.
        as_requests: read sessions as single requests at their recorded times.

    Raises:
        TraceError: a broken row, or sessions that have no recorded times.
    """
    if trace.has_sessions and not as_requests:
        return Content(sessions=trace.sessions())
    return Content(requests=_with_usual_chunks(trace, trace.requests(rate_rps=rate_rps)))


def _with_usual_chunks(trace: Trace, requests: Iterator[WorkloadRequest]) -> Iterator[WorkloadRequest]:
    converter: ChunkConverter | None = None
    for request in requests:
        size = trace.report.tokens_per_hash_id
        if request.hash_ids and size not in (0, HASH_CHUNK_TOKENS):
            converter = converter or ChunkConverter(size, HASH_CHUNK_TOKENS)
            request = replace(request, hash_ids=converter.convert(request.hash_ids, request.prompt_tokens))
        yield request


def write_content(content: Content, path: Path, trace_format: str) -> int:
    """Write a trace; return how many requests or turns it has.

    Single requests become sessions of one turn where the format holds sessions.

    Args:
        content: single requests, which are read once, or sessions.
        path: the file; it is replaced when all of it has been written.
        trace_format: one of `WRITTEN_FORMATS`.

    Raises:
        TraceError: a broken row; requests are read while they are written.
        ValueError: an unknown format, nothing to write, or what the format cannot hold.
        OSError: the file cannot be written.
    """
    if trace_format not in WRITTEN_FORMATS:
        raise ValueError(f"expected one of {', '.join(WRITTEN_FORMATS)}, found {trace_format!r:.60}")
    if trace_format in SESSION_FORMATS:
        sessions = content.sessions
        if sessions is None:
            sessions = [_as_session(request) for request in content.requests or ()]
        return write_sessions(sessions, path, trace_format)
    if content.requests is None:
        raise ValueError(
            f"{path}: expected single requests for the format {trace_format!r}, found sessions, whose turns "
            f"have no arrival times; formats of sessions are {', '.join(SESSION_FORMATS)}"
        )
    if trace_format == "mooncake":
        return write_mooncake(content.requests, path)
    return write_table(content.requests, path, trace_format)


def _as_session(request: WorkloadRequest) -> Session:
    turn = Turn(
        request.prompt_tokens,
        request.output_tokens,
        hash_ids=request.hash_ids,
        max_tokens=request.max_tokens,
    )
    return Session(
        request.request_id, (turn,), request.arrival_s, request.agent_id, request.priority, request.weight
    )


def cut_content(
    content: Content,
    *,
    from_s: float = 0.0,
    to_s: float = float("inf"),
    sample: float = 1.0,
    seed: int = 0,
    limit: int | None = None,
) -> Content:
    """Return a part of a trace: requests or sessions that start within a window, and a sample of them.

    Args:
        content: of a trace; a session without a start time counts as starting at 0.
        from_s: seconds after the first arrival, at least 0.
        to_s: seconds after the first arrival; what arrives then or later is left out.
        sample: share of them that is kept, each with this probability.
        seed: of the sample.
        limit: at most this many.

    Raises:
        ValueError: an argument out of range, or nothing is left. For single requests the latter is found out
            while they are read.
    """
    if not 0.0 <= from_s < to_s:
        raise ValueError(f"expected a window with 0 <= from < to, found {from_s:g} and {to_s:g} s")
    if not 0.0 < sample <= 1.0:
        raise ValueError(f"expected a share above 0, at most 1, found {sample:g}")
    if limit is not None and limit < 1:
        raise ValueError(f"expected at least 1 request, found {limit}")
    chance = Random(seed)

    def keep(since_first_s: float) -> bool:
        return from_s <= since_first_s < to_s and (sample == 1.0 or chance.random() < sample)

    if content.sessions is not None:
        first_s = min((s.start_s or 0.0 for s in content.sessions), default=0.0)
        kept = [s for s in content.sessions if keep((s.start_s or 0.0) - first_s)][:limit]
        if not kept:
            last_s = max((s.start_s or 0.0 for s in content.sessions), default=0.0) - first_s
            raise _nothing_left("session", last_s)
        return Content(sessions=[_moved(session, first_s + from_s) for session in kept])
    return Content(requests=_cut_requests(content.requests or (), keep, from_s, to_s, limit))


def _moved(session: Session, by_s: float) -> Session:
    return session if session.start_s is None else replace(session, start_s=round(session.start_s - by_s, 9))


def _cut_requests(
    requests: Iterable[WorkloadRequest],
    keep: Callable[[float], bool],
    from_s: float,
    to_s: float,
    limit: int | None,
) -> Iterator[WorkloadRequest]:
    first_s: float | None = None
    since_s = 0.0
    kept = 0
    for request in requests:
        if first_s is None:
            first_s = request.arrival_s
        since_s = request.arrival_s - first_s
        if since_s >= to_s or kept == limit:
            break
        if keep(since_s):
            kept += 1
            yield replace(request, arrival_s=round(since_s - from_s, 9))
    if not kept:
        raise _nothing_left("request", since_s)


def _nothing_left(what: str, last_s: float) -> ValueError:
    return ValueError(f"no {what} is left: the last one looked at arrives {last_s:g} s after the first")


class Anonymizer:
    """Replaces every name and hash id of a trace by a keyed hash; lengths and gaps stay.

    Equal names and ids stay equal under one key, so that sessions, senders and shared prefixes survive, and
    without the key it cannot be tested whether a known prompt is in the trace.

    Args:
        key: at least 16 bytes of chance; a key that is thrown away cannot be undone by anyone.
        time_step_s: arrivals are rounded down to multiples of it; 0 keeps them.

    Raises:
        ValueError: a short key, or a negative step.
    """

    def __init__(self, key: bytes, time_step_s: float = 0.0) -> None:
        if len(key) < 16:
            raise ValueError(f"expected a key of at least 16 bytes, found {len(key)}")
        if not 0.0 <= time_step_s < float("inf"):
            raise ValueError(f"expected a step of at least 0 s, found {time_step_s:g}")
        self._key = hashlib.blake2b(key, digest_size=32).digest()
        self._step_s = time_step_s
        self._ids: dict[int, int] = {}

    def hide(self, content: Content) -> Content:
        """Return the trace without names; its first request or session arrives at 0 s."""
        if content.sessions is not None:
            starts = [s.start_s for s in content.sessions if s.start_s is not None]
            first_s = min(starts, default=0.0)
            return Content(sessions=[self._session(s, first_s) for s in content.sessions])
        return Content(requests=self._requests(content.requests or ()))

    def _requests(self, requests: Iterable[WorkloadRequest]) -> Iterator[WorkloadRequest]:
        first_s: float | None = None
        for index, request in enumerate(requests):
            if first_s is None:
                first_s = request.arrival_s
            yield replace(
                request,
                request_id=f"r{index}",
                arrival_s=self._time(request.arrival_s - first_s),
                hash_ids=tuple(map(self._chunk, request.hash_ids)),
                agent_id=self._name(request.agent_id) if request.agent_id else "",
            )

    def _session(self, session: Session, first_s: float) -> Session:
        return replace(
            session,
            session_id=self._name(session.session_id),
            start_s=None if session.start_s is None else self._time(session.start_s - first_s),
            agent_id=self._name(session.agent_id) if session.agent_id else "",
            turns=tuple(
                replace(turn, hash_ids=tuple(map(self._chunk, turn.hash_ids))) for turn in session.turns
            ),
        )

    def _time(self, seconds: float) -> float:
        if self._step_s:
            seconds = seconds // self._step_s * self._step_s
        return round(seconds, 6)

    def _name(self, name: str) -> str:
        return hashlib.blake2b(name.encode(), digest_size=8, key=self._key).hexdigest()

    def _chunk(self, chunk: int) -> int:
        hidden = self._ids.get(chunk)
        if hidden is None:
            digest = hashlib.blake2b(
                str(chunk).encode(), digest_size=8, key=self._key, person=b"chunk"
            ).digest()
            hidden = self._ids[chunk] = int.from_bytes(digest, "big") >> 1  # ids are below 2**63
        return hidden
