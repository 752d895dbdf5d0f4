"""The requests that the measurements of speed run over."""

from __future__ import annotations

from itertools import islice

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.workloads import leave_out_unfit
from bidkv.workloads.traces import read_trace


def requests_of(trace: str, limit: int, engine: EngineConfig) -> list[WorkloadRequest]:
    """Return the first requests of a trace that can fit into the engine's memory at all; 0: all of them."""
    fitting, _ = leave_out_unfit(read_trace(trace), engine.usable_blocks, engine.block_size)
    return list(islice(fitting, limit or None))
