"""Length-only CSV traces (Vidur and Etalon write them): token counts without times.

Columns num_prefill_tokens and num_decode_tokens, or prompt_tokens and output_tokens; others are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces.errors import fail
from bidkv.workloads.traces.lines import read_lines
from bidkv.workloads.traces.table import parse_tokens, read_rows, split_header

COLUMN_PAIRS = (("num_prefill_tokens", "num_decode_tokens"), ("prompt_tokens", "output_tokens"))


def find_columns(header: Sequence[str]) -> tuple[str, str] | None:
    """Return the pair of length columns a header has, or None."""
    return next((pair for pair in COLUMN_PAIRS if set(pair) <= set(header)), None)


def read_lengths(path: Path, arrivals_s: Iterable[float]) -> Iterator[WorkloadRequest]:
    """Stream the requests of a length-only CSV, paired with endless `arrivals_s`.

    Raises:
        TraceError: a broken row, no length columns, or no request at all.
    """
    file = str(path)
    header_line = next(chain(read_lines(path), [(0, b"")]))[1]
    pair = find_columns(split_header(file, header_line))
    if pair is None:
        choices = " or ".join(map(",".join, COLUMN_PAIRS))
        fail(file, 1, "", f"a header with the columns {choices}", header_line)
    prompt_column, output_column = pair
    rows = read_rows(path, pair)
    for index, ((number, (prompt, output)), arrival_s) in enumerate(zip(rows, arrivals_s, strict=False)):
        yield WorkloadRequest(
            f"r{index}",
            arrival_s,
            parse_tokens(file, number, prompt_column, prompt),
            parse_tokens(file, number, output_column, output),
        )
