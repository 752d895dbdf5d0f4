"""Writing single requests as CSV: lengths with arrivals in seconds, or dates as Azure's traces have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results.files import write_lines

_EPOCH = datetime(2000, 1, 1)


def _vidur(requests: Iterable[WorkloadRequest]) -> Iterator[str]:
    yield "arrived_at,num_prefill_tokens,num_decode_tokens"
    for request in requests:
        yield f"{request.arrival_s!r},{request.prompt_tokens},{request.output_tokens}"


def _azure(requests: Iterable[WorkloadRequest]) -> Iterator[str]:
    yield "TIMESTAMP,ContextTokens,GeneratedTokens"
    for request in requests:
        moment = _EPOCH + timedelta(microseconds=round(request.arrival_s * 1e6))
        yield f"{moment:%Y-%m-%d %H:%M:%S.%f},{request.prompt_tokens},{request.output_tokens}"


_WRITERS: dict[str, Callable[[Iterable[WorkloadRequest]], Iterator[str]]] = {"vidur": _vidur, "azure": _azure}
TABLE_FORMATS = tuple(_WRITERS)
"""Tables that requests can be written as. They hold arrivals and lengths only."""


def write_table(requests: Iterable[WorkloadRequest], path: Path, trace_format: str) -> int:
    """Write requests as a table, all or nothing; return how many.

    Args:
        requests: read once; only arrivals and lengths are written.
        path: the file; it is replaced when all of it has been written.
        trace_format: one of :data:`TABLE_FORMATS`.

    Raises:
        ValueError: no request.
        OSError: the file cannot be written.
    """
    rows = _WRITERS[trace_format](_at_least_one(requests, path))
    return write_lines(path, rows) - 1


def _at_least_one(requests: Iterable[WorkloadRequest], path: Path) -> Iterator[WorkloadRequest]:
    empty = True
    for request in requests:
        empty = False
        yield request
    if empty:
        raise ValueError(f"{path}: expected at least one request")
