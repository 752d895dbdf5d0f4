"""Exchange with NVIDIA AIPerf, as a cross-check: `mooncake_trace` rows that carry whole request bodies.

    aiperf profile --custom-dataset-type mooncake_trace --input-file rows.jsonl --fixed-schedule ...

Each row is `{"timestamp": milliseconds, "payload": the request body}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from bidkv.experiments.load.bodies import Prepared
from bidkv.experiments.traces.lines import read_lines
from bidkv.experiments.traces.writer import atomic_file


def export_payloads(prepared: Sequence[Prepared], path: Path) -> None:
    """Write requests as `mooncake_trace` payload rows."""
    with atomic_file(path) as file:
        for request in prepared:
            row = f'{{"timestamp": {json.dumps(1e3 * request.due_s)}, "payload": '
            file.write(row.encode() + request.body + b"}\n")


def import_payloads(path: Path) -> list[Prepared]:
    """Read `mooncake_trace` payload rows; requests are named r0, r1, ... in the order of the file.

    Raises:
        ValueError: a row is not one; the message names file and line.
        TraceError: the file cannot be read.
    """
    found: list[Prepared] = []
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
            payload, due_s = row["payload"], float(row["timestamp"]) / 1e3
            tokens = payload.get("max_tokens") or payload["sampling_params"]["max_new_tokens"]
            if type(tokens) is not int or tokens < 1 or not 0.0 <= due_s < math.inf:
                raise ValueError("a time or a number of tokens that makes no sense")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(
                f"{path}, line {number}: expected timestamp (ms) and payload with max_tokens ({error!r:.80})"
            ) from error
        found.append(Prepared(f"r{len(found)}", due_s, json.dumps(payload).encode(), tokens))
    return found
