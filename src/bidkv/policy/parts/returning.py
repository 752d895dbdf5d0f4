"""Who waits under `fair`: newcomers in the order they arrived, and before them whoever was preempted."""

from __future__ import annotations

from collections import OrderedDict

from bidkv.policy.parts.ordering import LOOK_PAST, WaitingHeap
from bidkv.protocol.requests import RequestView


class ReturnQueue:
    """The engine's own queue, in which a preempted request that does not fit may be passed a few times.

    As in the engine, who was preempted last returns first, and newcomers follow in the order of arrival,
    which nothing here changes. An engine waits until the first fits; memory is idle meanwhile that others
    could use. Here one of the other preempted requests, or else the first newcomer, may enter in its place.
    Between a preemption and the return at most `passes` newcomers enter: then the first that was passed so
    often waits for memory alone.

    Joining, leaving and choosing are O(log preempted); without preempted requests O(1).

    Args:
        passes: newcomers that may enter while a preempted request waits, at least 0; 0 keeps the engine's
            own order.

    Raises:
        ValueError: `passes` is negative.
    """

    __slots__ = ("_entered", "_newcomers", "_out", "_passes", "_returning", "_turn")

    def __init__(self, passes: int) -> None:
        if passes < 0:
            raise ValueError(f"passes must be >= 0, got {passes}")
        self._passes = passes
        self._newcomers: OrderedDict[str, tuple[RequestView, int]] = OrderedDict()  # with their blocks
        self._returning = WaitingHeap()
        self._out: OrderedDict[str, tuple[RequestView, int, int]] = OrderedDict()  # blocks, _entered then
        self._entered = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._newcomers) + len(self._out)

    def arrive(self, request: RequestView, blocks: int) -> None:
        """`request` waits behind all others; it needs `blocks` to enter."""
        self._newcomers[request.request_id] = (request, blocks)

    def preempt(self, request: RequestView, blocks: int) -> None:
        """`request` waits before all others; it needs `blocks` to return."""
        self._turn -= 1
        self._returning.push(request, self._turn, blocks)
        self._out[request.request_id] = (request, blocks, self._entered)

    def admit(self, request: RequestView) -> None:
        """`request` runs: a newcomer among them passes whoever was preempted and still waits."""
        self._entered += request.request_id in self._newcomers
        self.discard(request)

    def discard(self, request: RequestView) -> None:
        """`request` waits no more; unknown ones are ignored."""
        name = request.request_id
        self._newcomers.pop(name, None)
        if self._out.pop(name, None) is not None:
            self._returning.discard(request)

    def choose(self, room: int, room_to_pass: int) -> RequestView | None:
        """Return who is next, None when nobody waits; who does not fit either holds the queue.

        Args:
            room: blocks for whoever is first.
            room_to_pass: blocks for one that enters in its place.
        """
        newcomer = next(iter(self._newcomers.values()), None)
        head = self._returning.first()
        if head is None:
            return None if newcomer is None else newcomer[0]
        if not self._passes:
            return head
        longest, _, entered_then = next(iter(self._out.values()))
        if self._entered - entered_then >= self._passes:
            return longest
        if self._out[head.request_id][1] <= room:
            return head
        if room_to_pass > 0:
            other = self._returning.first_fitting(room_to_pass, 1 + LOOK_PAST)
            if other is not None:
                return other
            if newcomer is not None and newcomer[1] <= room_to_pass:
                return newcomer[0]
        return head
