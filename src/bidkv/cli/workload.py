"""From the workload options of a command line to requests, or to sessions and their arrivals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bidkv.cli.errors import bad_input, fail
from bidkv.cli.options import TraceFormat

if TYPE_CHECKING:
    from bidkv.protocol.requests import WorkloadRequest
    from bidkv.protocol.sessions import Session, SessionArrivals

_GENERATED_REQUESTS = 1000
"""Requests of a generated workload where no `--limit` states their number."""

_GENERATED_SESSIONS = 100
"""Sessions of a generated workload where no `--sessions` states their number."""


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The options that say how many sessions there are and when they start."""

    number: int | None = None
    rate: float | None = None
    concurrent: int | None = None
    stagger_s: float = 0.0
    at_once: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether none of the options was given."""
        return self.number is None and self.rate is None and self.concurrent is None and not self.at_once

    def make_arrivals(self, seed: int) -> SessionArrivals:
        """Return when sessions start; the sessions' own times where no option says otherwise."""
        from bidkv.protocol.sessions import SessionArrivals

        chosen = [
            option
            for option, given in (
                ("--session-rate", self.rate is not None),
                ("--concurrent-sessions", self.concurrent is not None),
                ("--sessions-at-once", self.at_once),
            )
            if given
        ]
        if len(chosen) > 1:
            fail(f"{' and '.join(chosen)}: expected only one of them, since each says when sessions start")
        with bad_input(chosen[0] if chosen else "sessions"):
            if self.rate is not None:
                return SessionArrivals.at_rate(self.rate, seed=seed)
            if self.concurrent is not None:
                return SessionArrivals.at_concurrency(self.concurrent, stagger_s=self.stagger_s)
            return SessionArrivals.at_once() if self.at_once else SessionArrivals.at_own_times()


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """The workload options of a command line."""

    trace: str
    trace_format: TraceFormat = TraceFormat.AUTO
    rate_rps: float | None = None
    limit: int | None = None
    hours: float | None = None
    seed: int = 0
    sessions: SessionOptions = field(default_factory=SessionOptions)


@dataclass(frozen=True, slots=True)
class Workload:
    """What every strategy of a comparison gets: single requests, or sessions and when they start.

    Attributes:
        requests: in the order of arrival; empty for sessions.
        left_out: requests or sessions that could never fit into the KV cache.
        sessions: in the order in which they start; empty for single requests.
        arrivals: when sessions start; None for single requests.
    """

    requests: Sequence[WorkloadRequest] = ()
    left_out: int = 0
    sessions: Sequence[Session] = ()
    arrivals: SessionArrivals | None = None

    @property
    def size(self) -> int:
        """Number of requests, turns counted one by one."""
        return len(self.requests) + sum(len(session.turns) for session in self.sessions)

    @property
    def arrival_rate_rps(self) -> float | None:
        """Mean arrival rate of single requests; None for sessions, and where all arrive at one instant."""
        if len(self.requests) < 2:
            return None
        span_s = self.requests[-1].arrival_s - self.requests[0].arrival_s
        return (len(self.requests) - 1) / span_s if span_s > 0.0 else None


def read_workload(options: WorkloadOptions, usable_blocks: int, block_size: int) -> Workload:
    """Read the workload once, so that every strategy gets the identical one.

    Requests and sessions that could never fit into the KV cache are left out with a line on stderr.
    """
    from bidkv.workloads import leave_out_unfit, repeat_for

    if (sessions := _read_sessions(options)) is not None:
        return _fit_sessions(options, sessions, usable_blocks * block_size)
    if not options.sessions.is_empty:
        fail(f"--trace: {options.trace} holds single requests, and the options for sessions need sessions")
    if options.rate_rps is None and _is_generated(options.trace):
        fail(f"--rate: the workload {options.trace!r} has no arrival times of its own: state a rate")
    with bad_input("--trace"):
        source = read_requests(options)
        if options.hours is not None:
            with bad_input("--hours"):
                source = repeat_for(source, 3600.0 * options.hours, options.seed)
        fitting, report = leave_out_unfit(source, usable_blocks, block_size)
        requests = list(fitting)
    if report.left_out:
        typer.echo(f"bidkv: {report}", err=True)
    if not requests:
        fail("--num-gpu-blocks: no request of the trace fits into the KV cache")
    return Workload(requests, report.left_out)


def read_requests(
    options: WorkloadOptions, generated: int = _GENERATED_REQUESTS
) -> Iterator[WorkloadRequest]:
    """Return single requests of a file, a shipped trace, or a generated workload.

    Args:
        options: which and how many.
        generated: requests of a generated workload where no limit is stated.

    Raises:
        ValueError: a generated workload without a rate, or an argument out of range.
        TraceError: a file that is no trace.
    """
    from bidkv.workloads import available_workloads, generate
    from bidkv.workloads.families import FAMILIES
    from bidkv.workloads.traces import available_traces, read_trace

    name, rate = options.trace, options.rate_rps
    number = generated if options.limit is None else options.limit
    if _is_generated(name) and rate is None:
        raise ValueError(f"the workload {name!r} has no arrival times of its own: state a --rate")
    if name in available_workloads() and rate is not None:
        return generate(name, n=number, rate_rps=rate, seed=options.seed)
    if name in FAMILIES and name not in available_traces() and not Path(name).exists() and rate is not None:
        return iter(FAMILIES[name](number, rate, options.seed))
    return read_trace(
        name,
        trace_format=options.trace_format.value,
        rate_rps=rate,
        limit=options.limit,
        seed=options.seed,
    )


def _is_generated(name: str) -> bool:
    from bidkv.workloads import available_workloads
    from bidkv.workloads.families import FAMILIES
    from bidkv.workloads.traces import available_traces

    return name in available_workloads() or (
        name in FAMILIES and name not in available_traces() and not Path(name).exists()
    )


def _read_sessions(options: WorkloadOptions) -> list[Session] | None:
    """Return the sessions of a file or a generated workload; None where it holds single requests."""
    from bidkv.workloads import available_session_workloads, generate_sessions
    from bidkv.workloads.session_families import SESSION_FAMILIES

    name = options.trace
    number = _GENERATED_SESSIONS if options.sessions.number is None else options.sessions.number
    with bad_input("--sessions"):
        if name in available_session_workloads():
            return list(generate_sessions(name, n=number, seed=options.seed))
        if name in SESSION_FAMILIES:
            return SESSION_FAMILIES[name](number, options.seed)
    return None


def _fit_sessions(options: WorkloadOptions, sessions: list[Session], cache_tokens: int) -> Workload:
    for option, given in (("--rate", options.rate_rps), ("--hours", options.hours)):
        if given is not None:
            fail(
                f"{option}: the workload holds sessions: say with --session-rate, --concurrent-sessions or "
                "--sessions-at-once when they start"
            )
    # A block that is only partly filled takes a whole one; a session may fill all but one block.
    fitting = [session for session in sessions if _longest_context(session) < cache_tokens]
    if left_out := len(sessions) - len(fitting):
        typer.echo(
            f"bidkv: left out {left_out:,} of {len(sessions):,} sessions: their contexts exceed the "
            f"{cache_tokens:,} tokens of the KV cache",
            err=True,
        )
    if not fitting:
        fail("--num-gpu-blocks: no session fits into the KV cache")
    arrivals = options.sessions.make_arrivals(options.seed)
    with bad_input("sessions"):
        arrivals.start_times(fitting)
    return Workload(left_out=left_out, sessions=fitting, arrivals=arrivals)


def _longest_context(session: Session) -> int:
    """Return the most tokens the session holds at the end of a turn."""
    pairs = zip(session.prompt_lengths(), session.turns, strict=True)
    return max(prompt + turn.output_tokens for prompt, turn in pairs)
