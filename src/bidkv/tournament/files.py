"""Trace files as families of a tournament: any number of requests of a file's kind, at any rate, by seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig
from bidkv.workloads import UnfitReport, leave_out_unfit
from bidkv.workloads.families import is_held_out
from bidkv.workloads.repeated import repeat_for
from bidkv.workloads.traces import Trace, TraceError, TraceOptions, TraceReport, open_trace
from bidkv.workloads.traces.arrivals import arrival_times_s

_AT_ONE_INSTANT = "{}: {:,} requests arrive at one instant: no stretch gives them a rate"

MOST_ROWS = 1_000_000
"""Requests of a file that are held in memory; a longer file has to be cut."""


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A file of single requests that takes part like a family.

    As with the families of real data, tuning seeds draw from the first half of the rows and held-out seeds
    from the second. A file with arrival times is replayed in its own order and rhythm from a row that the
    seed chooses, and goes on with another part of itself at its end. Rows of a file without are drawn with
    replacement and arrive as a Poisson process.

    Attributes:
        path: of the file.
        statements: what the command line states about it, by the names of its options.
    """

    path: str
    statements: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its name in tables and in the folder of scores."""
        return Path(self.path).name

    def _read(self) -> tuple[Trace, list[WorkloadRequest]]:
        return _read(self.path, tuple(sorted(self.statements.items())))

    @property
    def report(self) -> TraceReport:
        """What was understood of the file.

        Raises:
            TraceError: no trace of single requests, a broken row, or too many rows.
            ValueError: a statement that makes no sense.
        """
        return self._read()[0].report

    def fingerprint(self) -> str:
        """A checksum of the file's content."""
        digest = hashlib.sha256()
        with self._read()[0].source.path.open("rb") as file:
            for part in iter(lambda: file.read(1 << 20), b""):
                digest.update(part)
        return digest.hexdigest()[:16]

    def fit_engine(self, engine: EngineConfig) -> EngineConfig:
        """Return the engine with the file's number of tokens a hash id."""
        chunk = self.report.tokens_per_hash_id
        return replace(engine, prefix_chunk_tokens=chunk) if chunk else engine

    def fitting(self, engine: EngineConfig, seed: int) -> tuple[list[WorkloadRequest], UnfitReport]:
        """Return the rows of the seed's half that fit into the engine's memory, and what was left out.

        Raises:
            ValueError: fewer than two of them, or all at one instant.
        """
        rows = self._read()[1]
        middle = len(rows) // 2
        half = rows[middle:] if is_held_out(seed) else rows[:middle]
        fitting, unfit = leave_out_unfit(half, engine.usable_blocks, engine.block_size)
        kept = list(fitting)
        if len(kept) < 2:
            raise ValueError(
                f"{self.path}: expected at least 2 requests in each half that fit into "
                f"{engine.usable_blocks:,} blocks, found {len(kept)} of {len(half):,}"
            )
        if self._has_times and not kept[-1].arrival_s > kept[0].arrival_s:
            raise ValueError(_AT_ONE_INSTANT.format(self.path, len(kept)))
        return kept, unfit

    @property
    def _has_times(self) -> bool:
        trace = self._read()[0]
        return trace.format.has_times(trace.source, trace.options)

    def make(self, engine: EngineConfig, n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
        """Return `n` requests in order of arrival, the first at 0 s, at a mean rate of `rate_rps`.

        Raises:
            ValueError: see :meth:`fitting`, or rows that all arrive at one instant.
        """
        rows = self.fitting(engine, seed)[0]
        if not self._has_times:
            times_s = arrival_times_s(rate_rps, Random(f"{seed}:arrivals"), "poisson", 1.0)
            return _arriving(Random(f"{seed}:requests").choices(rows, k=n), list(islice(times_s, n)))
        window = _window(rows, n, seed)
        first_s = window[0].arrival_s
        span_s = window[-1].arrival_s - first_s
        if n > 1 and not span_s > 0.0:
            raise ValueError(_AT_ONE_INSTANT.format(self.path, n))
        stretch = (n - 1) / (rate_rps * span_s) if n > 1 else 0.0
        return _arriving(window, [round((row.arrival_s - first_s) * stretch, 6) for row in window])


@lru_cache(maxsize=4)
def _read(path: str, statements: tuple[tuple[str, Any], ...]) -> tuple[Trace, list[WorkloadRequest]]:
    """Read a file once a process, however many groups of cells it plays in."""
    trace = open_trace(path, options=TraceOptions.from_statements(dict(statements)))
    rate = None if trace.format.has_times(trace.source, trace.options) else 1.0
    rows = list(trace.requests(rate_rps=rate, limit=MOST_ROWS + 1))
    if len(rows) > MOST_ROWS:
        raise TraceError(
            f"{path}: expected at most {MOST_ROWS:,} requests, which are held in memory: bidkv trace cut "
            "takes a part"
        )
    return trace, rows


def _window(rows: Sequence[WorkloadRequest], n: int, seed: int) -> list[WorkloadRequest]:
    """Return `n` rows in a row from one that the seed chooses, repeated for as long as it takes."""
    start = Random(f"{seed}:window").randrange(len(rows))
    span_s = rows[-1].arrival_s - rows[0].arrival_s
    passes = 1 + math.ceil((start + n) / len(rows))
    return list(islice(repeat_for(rows, passes * 2.0 * span_s, seed), start, start + n))


def _arriving(rows: Sequence[WorkloadRequest], times_s: Sequence[float]) -> list[WorkloadRequest]:
    return [
        replace(row, request_id=f"r{index}", arrival_s=now_s)
        for index, (row, now_s) in enumerate(zip(rows, times_s, strict=True))
    ]
