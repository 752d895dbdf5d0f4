"""How many prompt tokens a hash id stands for: 512 in Mooncake's traces, told by the counts of others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bidkv.workloads.traces.errors import TraceError
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS, MAX_TOKENS
from bidkv.workloads.traces.options import TraceOptions
from bidkv.workloads.traces.report import TraceReport

FEWEST_ROWS = 8
"""Rows with ids from which on their counts say anything about the size of a chunk."""

_SIZES = tuple(2**power for power in range(3, 15))
_LEAST_COVER = 0.75
"""Share of the prompts that ids of 512 tokens must cover at least, on average, to go without a warning."""


def tell_chunk_tokens(
    file: str,
    rows: Iterable[tuple[Any, Any]],
    options: TraceOptions,
    report: TraceReport,
    usual: int = HASH_CHUNK_TOKENS,
) -> int:
    """Return the tokens a hash id stands for: as stated, as usual, or as every row says.

    A prompt of P tokens has ceil(P / size) ids, so every row bounds the size. A size other than the usual one
    is taken when it is the only power of two within the bounds of at least 8 rows.

    Args:
        file: name of the trace.
        rows: prompt tokens and hash ids of the first rows, as they were found.
        options: what was stated.
        report: where the size is written down.
        usual: the size that the format's makers use.

    Raises:
        TraceError: the usual size contradicts the rows and others do not.
    """
    counts = [
        (prompt, len(ids))
        for prompt, ids in rows
        if type(prompt) is int and prompt > 0 and type(ids) is list and ids
    ]
    if not counts:
        return options.tokens_per_hash_id or usual
    report.tokens_per_hash_id = options.tokens_per_hash_id or usual
    if options.tokens_per_hash_id is not None:
        return options.tokens_per_hash_id
    # ids = ceil(prompt / size) for every row: the sizes that fit all of them are a range.
    least: int = max(-(-prompt // ids) for prompt, ids in counts)
    most: int = min((((prompt - 1) // (ids - 1)) for prompt, ids in counts if ids > 1), default=MAX_TOKENS)
    if least <= usual <= most:
        return usual
    is_told = len(counts) >= FEWEST_ROWS and least <= most
    fitting: list[int] = [size for size in _SIZES if least <= size <= most] if is_told else []
    if len(fitting) == 1:
        report.tokens_per_hash_id = fitting[0]
        report.note(
            f"one hash id for each {fitting[0]} prompt tokens fits every row, where {usual} is usual; "
            "--tokens-per-hash-id states another size"
        )
        return fitting[0]
    if is_told:
        sizes = ", ".join(map(str, fitting)) or (str(least) if least == most else f"{least} to {most}")
        raise TraceError(
            f"{file}, field 'hash_ids': expected one id for each {usual} prompt tokens; sizes of {sizes} "
            "fit the rows: state --tokens-per-hash-id"
        )
    cover = sum(min(ids * usual, prompt) for prompt, ids in counts) / sum(p for p, _ in counts)
    if cover < _LEAST_COVER:
        report.warn(
            f"hash ids of {usual} tokens cover {cover:.0%} of the prompts; if an id stands for more tokens, "
            "state --tokens-per-hash-id"
        )
    return usual
