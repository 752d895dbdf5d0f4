"""The one namespace of workloads: which generator, family, shipped trace or file a name stands for.

A name may say its kind: `synthetic:mixed`, `trace:azure-conv`, `family:mixed`, `sessions:agents` or
`session-family:chat`. A bare name is looked up in that order, so it means the same in every command; the
families that share a name with a synthetic workload or a shipped trace are only reached by their kind. What
is no name is a file; `./mixed` is always one. The parameters of a generator may follow its name:
`agents:turns_median=8;new_median=300`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.families import FAMILIES, split_seeds
from bidkv.workloads.generators.generate import (
    available_session_workloads,
    available_workloads,
    generate,
    generate_sessions,
)
from bidkv.workloads.session_families import SESSION_FAMILIES
from bidkv.workloads.traces import TraceOptions, available_traces, open_trace

Kind = Literal["synthetic", "trace", "family", "sessions", "session-family", "file"]

DEFAULT_SEED = split_seeds("held_out")[0]
"""Seed of experiments. They judge policies, so their seeds start where nothing was tuned."""


@dataclass(frozen=True, slots=True)
class WorkloadName:
    """What a name stands for.

    Attributes:
        kind: where it was found.
        name: within that kind, or the path of a file.
        params: of a generator.
    """

    kind: Kind
    name: str
    params: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_generated(self) -> bool:
        """Whether requests or sessions are made for a seed instead of read."""
        return self.kind not in ("trace", "file")

    @property
    def has_sessions(self) -> bool | None:
        """Whether it gives sessions; None for a file, whose content tells."""
        return None if self.kind == "file" else self.kind in ("sessions", "session-family")

    def __str__(self) -> str:
        return self.name if self.kind == "file" else f"{self.kind}:{self.name}"


def _names() -> Mapping[Kind, tuple[str, ...]]:
    """All names by kind, in the order in which a bare name is looked up."""
    return {
        "synthetic": available_workloads(),
        "trace": available_traces(),
        "family": tuple(FAMILIES),
        "sessions": available_session_workloads(),
        "session-family": tuple(SESSION_FAMILIES),
    }


def known_workloads() -> tuple[str, ...]:
    """Return every workload of single requests, by the shortest name that means it."""
    return _shortest_names("synthetic", "trace", "family")


def known_session_workloads() -> tuple[str, ...]:
    """Return every workload of sessions, by the shortest name that means it."""
    return _shortest_names("sessions", "session-family")


def _shortest_names(*kinds: Kind) -> tuple[str, ...]:
    names = _names()
    found = []
    for kind in kinds:
        for name in names[kind]:
            first = next(k for k, known in names.items() if name in known)
            found.append(name if first == kind else f"{kind}:{name}")
    return tuple(found)


def resolve_workload(text: str | Path) -> WorkloadName:
    """Return what a name stands for.

    Raises:
        ValueError: neither a name nor a file; the message lists the names.
    """
    text = str(text)
    head, colon, stated = text.rpartition(":")
    if colon and "=" in stated and (found := _find_name(head)) is not None:
        if found.kind not in ("synthetic", "sessions"):
            raise ValueError(f"expected parameters for a generator only, found {stated!r:.60} for {found}")
        return replace(found, params=_parse_params(stated))
    found = _find_name(text)
    if found is not None:
        return found
    try:
        exists = Path(text).exists()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        exists = False
    if exists:
        return WorkloadName("file", text)
    known_names = ", ".join((*known_workloads(), *known_session_workloads()))
    raise ValueError(f"workload {text[:200]!r} is neither a file nor one of: {known_names}")


def _find_name(text: str) -> WorkloadName | None:
    """What a name stands for, with its kind or without; None when there is no such name."""
    names = _names()
    prefix, colon, rest = text.partition(":")
    for kind, known in names.items():
        if colon and prefix == kind:
            if rest not in known:
                raise ValueError(
                    f"expected a workload of kind {kind!r}: {', '.join(known)}; found {rest!r:.60}"
                )
            return WorkloadName(kind, rest)
    for kind, known in names.items():
        if text in known:
            return WorkloadName(kind, text)
    return None


def _parse_params(text: str) -> dict[str, float]:
    params: dict[str, float] = {}
    for part in text.split(";"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not (equals and name) or not -1e12 < number < 1e12 or name in params:
            raise ValueError(f"expected parameters as NAME=NUMBER;NAME=NUMBER, each once, found {part!r:.60}")
        params[name] = int(value) if value.lstrip("-").isdigit() else number
    return params


def stream_requests(
    workload: str | WorkloadName,
    *,
    n: int | None = None,
    rate_rps: float | None = None,
    seed: int = 0,
    trace_format: str = "auto",
    options: TraceOptions | None = None,
) -> Iterator[WorkloadRequest]:
    """Return the requests of a workload in order of arrival.

    Args:
        workload: a name, or what :func:`resolve_workload` made of it.
        n: number of requests; None takes all that a trace has, and a thousand of a generated workload.
        rate_rps: mean arrivals a second; a generated workload needs it, a trace is stretched to it.
        seed: another seed gives other requests; a trace always gives its own.
        trace_format: of a file.
        options: what a file does not say.

    Raises:
        ValueError: no such workload, one of sessions, or an argument out of range.
        TraceError: a file that is not a trace of single requests.
    """
    found = resolve_workload(workload) if isinstance(workload, str) else workload
    if found.has_sessions:
        raise ValueError(f"expected a workload of single requests, found sessions: {found}")
    if not found.is_generated:
        trace = open_trace(found.name, trace_format=trace_format, options=options)
        return trace.requests(rate_rps=rate_rps, limit=n, seed=seed)
    if rate_rps is None:
        raise ValueError(f"the workload {found.name!r} has no arrival times of its own: state a --rate")
    number = DEFAULT_REQUESTS if n is None else n
    if found.kind == "synthetic":
        return generate(found.name, n=number, rate_rps=rate_rps, seed=seed, **found.params)
    return iter(FAMILIES[found.name](number, rate_rps, seed))


DEFAULT_REQUESTS = 1000
"""Requests of a generated workload where their number is not stated."""


def make_requests(
    workload: str, n: int, rate_rps: float, seed: int, options: TraceOptions | None = None
) -> list[WorkloadRequest]:
    """Return the first `n` requests of a workload at a mean rate, in order of arrival.

    Args:
        workload: its name, as every command takes it.
        n: how many; fewer where a file has fewer.
        rate_rps: requests a second; the arrivals of a trace are stretched to it.
        seed: of what is drawn; a trace with arrivals of its own has nothing to draw.
        options: what a file does not say.

    Raises:
        ValueError: no such workload, one of sessions, or an argument out of range.
        TraceError: a file that is not a trace, or a broken row.
    """
    return list(islice(stream_requests(workload, n=n, rate_rps=rate_rps, seed=seed, options=options), n))


def tokens_per_hash_id(workload: str, options: TraceOptions | None = None) -> int | None:
    """Return the prompt tokens that a hash id of a file's single requests stands for; None without any.

    Raises:
        ValueError: no such workload.
        TraceError: a file that is not a trace.
    """
    found = resolve_workload(workload)
    if found.kind != "file":
        return None
    trace = open_trace(found.name, options=options)
    if trace.has_sessions:
        return None
    needs_rate = not trace.format.has_times(trace.source, trace.options)
    next(trace.requests(rate_rps=1.0 if needs_rate else None))
    return trace.report.tokens_per_hash_id or None


def make_sessions(workload: str | WorkloadName, n: int, seed: int) -> list[Session]:
    """Return the first `n` sessions of a generated workload.

    Raises:
        ValueError: no such workload, one of single requests, or an argument out of range.
    """
    found = resolve_workload(workload) if isinstance(workload, str) else workload
    if found.kind == "sessions":
        return list(generate_sessions(found.name, n=n, seed=seed, **found.params))
    if found.kind == "session-family":
        return SESSION_FAMILIES[found.name](n, seed)
    raise ValueError(f"expected a generated workload of sessions, found {found}")
