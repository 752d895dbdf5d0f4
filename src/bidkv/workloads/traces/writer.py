"""Writing workloads as Mooncake JSON lines, exactly and all or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.results.files import atomic_file
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.formats.mooncake import RowParser
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS, MAX_LINE_BYTES


def write_mooncake(
    requests: Iterable[WorkloadRequest], path: str | Path, tokens_per_hash_id: int = HASH_CHUNK_TOKENS
) -> int:
    """Write a workload to `path`, streaming; reading it gives equal requests, arrivals to the last bit.

    Fields at their defaults are left out. The file appears only when everything is written: a failure
    leaves what was there before.

    Returns:
        How many requests were written.

    Raises:
        TraceError: a request no reader would take (an arrival before the one above, no output, ...).
        ValueError: no request at all.
        OSError: the file cannot be written.
    """
    count = 0
    # Every row is read back before it counts as written, so that only what is readable is ever frozen.
    parse = RowParser(str(path), chunk_tokens=tokens_per_hash_id).parse
    with atomic_file(Path(path)) as file:
        for count, request in enumerate(requests, 1):
            line = _row(count - 1, request).encode("ascii")
            if len(line) >= MAX_LINE_BYTES:
                fail(str(path), count, "", f"a request of at most {MAX_LINE_BYTES:,} bytes", line)
            if parse(count, line) != request:
                raise ValueError(
                    f"{path}, line {count}: this request would read differently: {request!r:.200}"
                )
            file.write(line + b"\n")
        if not count:
            raise ValueError(f"{path}: a workload needs at least one request")
    return count


def _row(index: int, r: WorkloadRequest) -> str:
    # Shifting the decimal point is exact where a product with 1000 would round.
    time_ms = format(Decimal(repr(float(r.arrival_s))).scaleb(3), "f")
    given: dict[str, Any] = {"input_length": r.prompt_tokens, "output_length": r.output_tokens}
    if r.hash_ids:
        given["hash_ids"] = list(r.hash_ids)
    if r.max_tokens is not None:
        given["max_tokens"] = r.max_tokens
    if r.priority:
        given["priority"] = r.priority
    if r.deadline_ms is not None:
        given["deadline_ms"] = r.deadline_ms
    if r.weight != 1.0:
        given["weight"] = r.weight
    if r.agent_id:
        given["agent_id"] = r.agent_id
    if r.request_id != f"r{index}":
        given["request_id"] = r.request_id
    return f'{{"timestamp": {time_ms}, {json.dumps(given)[1:]}'
