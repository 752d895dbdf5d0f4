"""The requests that the measurements of speed run over."""

from __future__ import annotations

from itertools import islice

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import SessionArrivals
from bidkv.simulator import EngineConfig, SessionSource
from bidkv.workloads import generate_sessions, leave_out_unfit
from bidkv.workloads.traces import read_trace


def requests_of(trace: str, limit: int, engine: EngineConfig) -> list[WorkloadRequest]:
    """Return the first requests of a trace that can fit into the engine's memory at all; 0: all of them."""
    fitting, _ = leave_out_unfit(read_trace(trace), engine.usable_blocks, engine.block_size)
    return list(islice(fitting, limit or None))


def agent_sessions(count: int, concurrent: int) -> SessionSource:
    """Return a fresh closed loop of `agents` sessions, `concurrent` at once."""
    sessions = list(generate_sessions("agents", n=count, seed=1))
    return SessionSource(sessions, SessionArrivals.at_concurrency(concurrent, stagger_s=0.2))
