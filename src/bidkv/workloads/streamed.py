"""Requests of a trace that is read anew for every run, so that a trace of any length fits into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.unfit import UnfitReport, leave_out_unfit


class StreamedRequests:
    """Requests that are read anew by every iteration; those that no cache could hold are left out.

    Args:
        read: opens the trace and returns its requests in order of arrival.
        usable_blocks: blocks of the cache, the engine's reserved null block not counted.
        block_size: tokens of one block.

    Attributes:
        count: requests of the last reading that fitted; 0 before one.
        first_s: arrival of the first of them.
        last_s: arrival of the last of them.
        unfit: what the last reading left out; None before one.
    """

    def __init__(
        self, read: Callable[[], Iterator[WorkloadRequest]], usable_blocks: int, block_size: int
    ) -> None:
        self._read = read
        self._usable_blocks = usable_blocks
        self._block_size = block_size
        self.count = 0
        self.first_s = 0.0
        self.last_s = 0.0
        self.unfit: UnfitReport | None = None

    def __iter__(self) -> Iterator[WorkloadRequest]:
        fitting, self.unfit = leave_out_unfit(self._read(), self._usable_blocks, self._block_size)
        self.count = 0
        for request in fitting:
            if not self.count:
                self.first_s = request.arrival_s
            self.count += 1
            self.last_s = request.arrival_s
            yield request

    def __len__(self) -> int:
        """Requests of the last reading; 0 before one."""
        return self.count
