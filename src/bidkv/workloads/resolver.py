"""The requests behind a workload's name: synthetic, a family of real data, a shipped trace, or a file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import available_workloads, generate
from bidkv.workloads.families import FAMILIES, split_seeds
from bidkv.workloads.traces import available_traces, read_trace

DEFAULT_SEED = split_seeds("held_out")[0]
"""Experiments judge: the seeds start where nothing was tuned."""


def known_workloads() -> tuple[str, ...]:
    """Return every name :func:`requests_of` knows without a file."""
    return tuple(dict.fromkeys((*available_workloads(), *FAMILIES, *available_traces())))


def require_workload(workload: str) -> None:
    """Raise ValueError unless `workload` is a name out of :func:`known_workloads`, or a file."""
    if workload not in known_workloads() and not Path(workload).exists():
        raise ValueError(
            f"workload {workload!r} is neither a file nor one of: {', '.join(known_workloads())}"
        )


def requests_of(workload: str, n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
    """Return the first `n` requests of a workload at a mean rate.

    Args:
        workload: a name out of :func:`known_workloads`, or a trace file.
        n: how many; a trace with fewer gives what it has.
        rate_rps: mean arrivals a second.
        seed: another seed gives other requests; a trace file always gives its own.

    Raises:
        ValueError: no such workload, or an argument out of range.
        TraceError: a file that is no trace.
    """
    require_workload(workload)
    if workload in available_workloads():
        return list(generate(workload, n=n, rate_rps=rate_rps, seed=seed))
    if workload in FAMILIES:
        return FAMILIES[workload](n, rate_rps, seed)
    return list(islice(read_trace(workload, rate_rps=rate_rps, limit=n, seed=seed), n))
