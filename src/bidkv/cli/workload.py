"""From the workload options of a command line to requests, or to sessions and their arrivals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import typer

from bidkv.cli import options as opt
from bidkv.cli.errors import bad_input, fail
from bidkv.command_line.file_options import FileOptions

if TYPE_CHECKING:
    from bidkv.protocol.requests import WorkloadRequest
    from bidkv.protocol.sessions import Session, SessionArrivals
    from bidkv.simulator import EngineConfig, SglangConfig
    from bidkv.workloads.resolver import WorkloadName
    from bidkv.workloads.streamed import StreamedRequests
    from bidkv.workloads.traces import Trace, TraceOptions, TraceReport

_GENERATED_SESSIONS = 100
"""Sessions of a generated workload where no `--sessions` states their number."""


@dataclass(frozen=True)
class SessionOptions:
    """The options that say how many sessions there are and when they start."""

    sessions: opt.Sessions = None
    session_rate: opt.SessionRate = None
    concurrent_sessions: opt.ConcurrentSessions = None
    session_stagger_s: opt.SessionStagger = opt.DEFAULT_SESSION_STAGGER_S
    sessions_at_once: opt.SessionsAtOnce = False

    @property
    def is_empty(self) -> bool:
        """Whether none of the options was given."""
        return (
            self.sessions is None
            and self.session_rate is None
            and self.concurrent_sessions is None
            and not self.sessions_at_once
        )

    def make_arrivals(self, seed: int) -> SessionArrivals:
        """Return when sessions start; the sessions' own times where no option says otherwise."""
        from bidkv.protocol.sessions import SessionArrivals

        chosen = [
            option
            for option, given in (
                ("--session-rate", self.session_rate is not None),
                ("--concurrent-sessions", self.concurrent_sessions is not None),
                ("--sessions-at-once", self.sessions_at_once),
            )
            if given
        ]
        if len(chosen) > 1:
            fail(f"{' and '.join(chosen)}: expected only one of them, since each says when sessions start")
        with bad_input(chosen[0] if chosen else "sessions"):
            if self.session_rate is not None:
                return SessionArrivals.at_rate(self.session_rate, seed=seed)
            if self.concurrent_sessions is not None:
                return SessionArrivals.at_concurrency(
                    self.concurrent_sessions, stagger_s=self.session_stagger_s
                )
            return SessionArrivals.at_once() if self.sessions_at_once else SessionArrivals.at_own_times()


@dataclass(frozen=True, kw_only=True)
class FileStatements(FileOptions):
    """The options of a command line that state what a trace does not say itself."""

    def make_options(self) -> TraceOptions:
        """Return them as a reader takes them; one that makes no sense ends the command with one line."""
        from bidkv.workloads.traces import TraceOptions

        with bad_input("trace options"):
            return TraceOptions.from_statements(self.statements())


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """The workload options of a command line."""

    trace: str
    trace_format: str = "auto"
    rate_rps: float | None = None
    limit: int | None = None
    hours: float | None = None
    seed: int = 0
    sessions: SessionOptions = field(default_factory=SessionOptions)
    statements: FileStatements = field(default_factory=FileStatements)
    named_by: str = "--trace"
    """The option that names the workload, for messages."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What every strategy of a comparison gets: single requests, or sessions and when they start.

    Attributes:
        requests: in the order of arrival; empty for sessions.
        left_out: requests or sessions that could never fit into the KV cache.
        sessions: in the order in which they start; empty for single requests.
        arrivals: when sessions start; None for single requests.
        report: what was understood of a file; None for what is generated.
    """

    requests: Sequence[WorkloadRequest] | StreamedRequests = ()
    left_out: int = 0
    sessions: Sequence[Session] = ()
    arrivals: SessionArrivals | None = None
    report: TraceReport | None = None

    @property
    def size(self) -> int:
        """Number of requests, turns counted one by one."""
        return len(self.requests) + sum(len(session.turns) for session in self.sessions)

    @property
    def arrival_rate_rps(self) -> float | None:
        """Mean arrival rate of single requests; None for sessions, and where all arrive at one instant."""
        if len(self.requests) < 2:
            return None
        if isinstance(self.requests, Sequence):
            span_s = self.requests[-1].arrival_s - self.requests[0].arrival_s
        else:
            span_s = self.requests.last_s - self.requests.first_s
        return (len(self.requests) - 1) / span_s if span_s > 0.0 else None

    @property
    def tokens_per_hash_id(self) -> int | None:
        """Prompt tokens that a hash id of the requests stands for, where a file says so."""
        return self.report.tokens_per_hash_id or None if self.report and self.requests else None


def read_workload(options: WorkloadOptions, usable_blocks: int, block_size: int) -> Workload:
    """Read the workload once, so that every strategy gets the identical one.

    Requests and sessions that could never fit into the KV cache are left out with a line on stderr, which
    also says what was understood of a file.
    """
    from bidkv.workloads.resolver import make_sessions, resolve_workload, stream_requests

    check_numbers(options)
    with bad_input(options.named_by):
        found = resolve_workload(options.trace)
    if found.has_sessions:
        number = _GENERATED_SESSIONS if options.sessions.sessions is None else options.sessions.sessions
        if number < 1:
            fail(f"--sessions: expected a number of at least 1, got {number}")
        with bad_input(options.named_by):
            sessions = make_sessions(found, number, options.seed)
        return _fit_sessions(options, sessions, usable_blocks * block_size, None)
    if found.is_generated:
        _refuse_session_options(options)
        if options.rate_rps is None:
            fail(f"--rate: the workload {options.trace!r} has no arrival times of its own: state a rate")
        with bad_input(options.named_by):
            made = stream_requests(found, n=options.limit, rate_rps=options.rate_rps, seed=options.seed)
            return _fit_requests(options, made, usable_blocks, block_size, None)
    trace = _open_trace(options, found)
    if trace.has_sessions and (options.rate_rps is None and options.hours is None):
        with bad_input("--trace"):
            sessions = trace.sessions(options.sessions.sessions)
        print_report(trace.report)
        return _fit_sessions(options, sessions, usable_blocks * block_size, trace.report)
    _refuse_session_options(options)
    with bad_input("--trace"):
        read = trace.requests(rate_rps=options.rate_rps, limit=options.limit, seed=options.seed)
        workload = _fit_requests(options, read, usable_blocks, block_size, trace.report)
    if found.kind == "file":
        print_report(trace.report)
    return workload


def stream_workload(options: WorkloadOptions, usable_blocks: int, block_size: int) -> Workload:
    """Return single requests that are read anew for every strategy; nothing is read yet.

    What was understood of the file and what was left out are known once a strategy ran: see
    :func:`finish_stream`.
    """
    from bidkv.workloads.resolver import resolve_workload
    from bidkv.workloads.streamed import StreamedRequests

    check_numbers(options)
    with bad_input(options.named_by):
        found = resolve_workload(options.trace)
    if found.has_sessions:
        fail(f"--stream: expected single requests, found the sessions of {found}")
    _refuse_session_options(options)
    if options.hours is not None:
        fail("--stream: expected no --hours: a repeated trace is held in memory")
    if found.is_generated:
        fail(f"--stream: expected a trace, found the generated workload {found}")
    trace = _open_trace(options, found)
    with bad_input("--trace"):  # a first request tells a trace of sessions, a missing rate, a wrong unit
        next(_open_trace(options, found).requests(rate_rps=options.rate_rps, seed=options.seed, limit=1))

    def read() -> Iterator[WorkloadRequest]:
        trace.report.left_out.clear()
        return trace.requests(rate_rps=options.rate_rps, limit=options.limit, seed=options.seed)

    return Workload(StreamedRequests(read, usable_blocks, block_size), report=trace.report)


def finish_stream(workload: Workload) -> Workload:
    """Print what was understood of a streamed trace, and return the workload with what was left out."""
    requests = workload.requests
    if isinstance(requests, Sequence) or requests.unfit is None or workload.report is None:
        return workload
    print_report(workload.report)
    if requests.unfit.left_out:
        typer.echo(f"bidkv: {requests.unfit}", err=True)
    return replace(workload, left_out=requests.unfit.left_out)


def read_requests(options: WorkloadOptions, generated: int | None = None) -> Iterator[WorkloadRequest]:
    """Return single requests of a file, a shipped trace, or a generated workload.

    Args:
        options: which and how many.
        generated: requests of a generated workload where no limit is stated.

    Raises:
        ValueError: a generated workload without a rate, or an argument out of range.
        TraceError: a file that is not a trace.
    """
    from bidkv.workloads.resolver import resolve_workload, stream_requests

    check_numbers(options)
    found = resolve_workload(options.trace)
    number = generated if options.limit is None and found.is_generated else options.limit
    return stream_requests(
        found,
        n=number,
        rate_rps=options.rate_rps,
        seed=options.seed,
        trace_format=options.trace_format,
        options=options.statements.make_options(),
    )


def check_numbers(options: WorkloadOptions) -> None:
    """End the command where a number makes no sense, whatever the workload is."""
    from bidkv.workloads.traces.arrivals import check_rate

    with bad_input("--rate"):
        if options.rate_rps is not None:
            check_rate(options.rate_rps)
    if options.limit is not None and options.limit < 1:
        fail(f"--limit: expected a number of at least 1, got {options.limit}")


def _open_trace(options: WorkloadOptions, found: WorkloadName) -> Trace:
    from bidkv.workloads.traces import open_trace

    stated = options.statements.make_options()
    with bad_input("--trace"):
        return open_trace(found.name, trace_format=options.trace_format, options=stated)


def print_report(report: TraceReport) -> None:
    """Print on stderr what was understood of a file."""
    for line in report.lines():
        typer.echo(f"bidkv: {line}", err=True)


def _refuse_session_options(options: WorkloadOptions) -> None:
    if not options.sessions.is_empty:
        fail(
            f"{options.named_by}: {options.trace} holds single requests, and the options for sessions need "
            "sessions"
        )


def _fit_requests(
    options: WorkloadOptions,
    source: Iterable[WorkloadRequest],
    usable_blocks: int,
    block_size: int,
    report: TraceReport | None,
) -> Workload:
    from bidkv.workloads import leave_out_unfit, repeat_for

    if options.hours is not None:
        with bad_input("--hours"):
            source = repeat_for(source, 3600.0 * options.hours, options.seed)
    fitting, left_out = leave_out_unfit(source, usable_blocks, block_size)
    requests = list(fitting)
    if left_out.left_out:
        typer.echo(f"bidkv: {left_out}", err=True)
    if not requests:
        fail("--num-gpu-blocks: no request of the trace fits into the KV cache")
    return Workload(requests, left_out.left_out, report=report)


def _fit_sessions(
    options: WorkloadOptions, sessions: list[Session], cache_tokens: int, report: TraceReport | None
) -> Workload:
    for option, given in (("--rate", options.rate_rps), ("--hours", options.hours)):
        if given is not None:
            fail(
                f"{option}: the workload holds sessions: say with --session-rate, --concurrent-sessions or "
                "--sessions-at-once when they start"
            )
    from bidkv.protocol.sessions import OWN_TIMES

    # A block that is only partly filled takes a whole one; a session may fill all but one block.
    fitting = [session for session in sessions if longest_context(session) < cache_tokens]
    if left_out := len(sessions) - len(fitting):
        typer.echo(
            f"bidkv: left out {left_out:,} of {len(sessions):,} sessions: their contexts exceed the "
            f"{cache_tokens:,} tokens of the KV cache",
            err=True,
        )
    if not fitting:
        fail("--num-gpu-blocks: no session fits into the KV cache")
    arrivals = options.sessions.make_arrivals(options.seed)
    if arrivals.kind == OWN_TIMES and any(session.start_s is None for session in fitting):
        fail(
            f"sessions: {options.trace} has no start time for every session: --session-rate R, "
            "--concurrent-sessions N or --sessions-at-once"
        )
    with bad_input("sessions"):
        arrivals.start_times(fitting)
    return Workload(left_out=left_out, sessions=fitting, arrivals=arrivals, report=report)


def longest_context(session: Session) -> int:
    """Return the most tokens the session holds at the end of a turn."""
    pairs = zip(session.prompt_lengths(), session.turns, strict=True)
    return max(prompt + turn.output_tokens for prompt, turn in pairs)


_READ_DEADLINES = frozenset(("on-time", "fast", "slack-aware"))
"""Strategies that read deadlines."""


def note_unread_fields(
    workload: Workload, engine: EngineConfig | SglangConfig, strategies: Sequence[str]
) -> None:
    """Say once on stderr what requests carry and neither the engine nor a strategy reads."""
    if not isinstance(workload.requests, Sequence):
        return  # streamed requests are not read before the run
    names = {strategy.partition(":")[0].replace("_", "-") for strategy in strategies}
    priorities = {request.priority for request in workload.requests}
    priorities |= {session.priority for session in workload.sessions}
    by_priority = getattr(engine, "schedules_by_priority", False) or "priority" in names
    if workload.sessions and not getattr(engine, "enable_prefix_caching", True):
        _note(
            "prefix caching is off here and on in vLLM by default: without it every turn computes its whole "
            "past again (--enable-prefix-caching)"
        )
    if len(priorities) > 1 and not by_priority:
        _note(
            f"the workload has {len(priorities)} priorities, which an engine that serves in order of arrival "
            "does not read: --scheduling-policy priority"
        )
    deadlines = sum(request.deadline_ms is not None for request in workload.requests)
    if deadlines and not names & _READ_DEADLINES:
        _note(
            f"{deadlines:,} requests have a deadline, which none of the strategies reads: --strategy on-time"
        )


def _note(text: str) -> None:
    typer.echo(f"bidkv: note: {text}", err=True)
