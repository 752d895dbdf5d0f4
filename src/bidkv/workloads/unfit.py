"""Requests that no cache of a given size can serve: they are left out and reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from bidkv.protocol.requests import WorkloadRequest

_MOST_EXAMPLES = 5


@dataclass(slots=True)
class UnfitReport:
    """What :func:`leave_out_unfit` left out; complete once its iterator has ended.

    Attributes:
        usable_blocks: KV blocks there are for requests.
        block_size: tokens a block holds.
        kept: requests that fit.
        left_out: requests that do not.
        largest_blocks: blocks of the largest request left out; 0 when none was.
        examples: names of the first few left out.
    """

    usable_blocks: int
    block_size: int
    kept: int = 0
    left_out: int = 0
    largest_blocks: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.left_out:
            return f"all {self.kept:,} requests fit in {self.usable_blocks:,} blocks"
        return (
            f"left out {self.left_out:,} of {self.kept + self.left_out:,} requests: the largest needs "
            f"{self.largest_blocks:,} blocks of {self.block_size} tokens, and there are "
            f"{self.usable_blocks:,} (first: {', '.join(self.examples)})"
        )


def leave_out_unfit(
    requests: Iterable[WorkloadRequest], usable_blocks: int, block_size: int
) -> tuple[Iterator[WorkloadRequest], UnfitReport]:
    """Split off the requests whose prompt and output together exceed the whole KV cache.

    A request fits when ceil((prompt + output) / block_size) <= usable_blocks, which is what an empty cache
    can hold. An engine would run a larger one until memory ends, preempt it, and repeat that forever.

    Args:
        requests: a workload, streamed.
        usable_blocks: blocks of the cache, the engine's reserved null block not counted.
        block_size: tokens of one block.

    Returns:
        The requests that fit, names and arrivals unchanged, and the report, filled while they are consumed.

    Raises:
        ValueError: no blocks, or blocks of no tokens.
    """
    if usable_blocks < 1 or block_size < 1:
        raise ValueError(
            f"usable_blocks and block_size must be at least 1, not {usable_blocks!r}, {block_size!r}"
        )
    report = UnfitReport(usable_blocks, block_size)
    return _fitting(requests, report), report


def _fitting(requests: Iterable[WorkloadRequest], report: UnfitReport) -> Iterator[WorkloadRequest]:
    for request in requests:
        blocks = -(-(request.prompt_tokens + request.output_tokens) // report.block_size)
        if blocks <= report.usable_blocks:
            report.kept += 1
            yield request
            continue
        report.left_out += 1
        report.largest_blocks = max(report.largest_blocks, blocks)
        if len(report.examples) < _MOST_EXAMPLES:
            report.examples.append(request.request_id)
