"""The waiting order of `fair`: new requests in order of arrival, and before them the preempted ones."""

from __future__ import annotations

from collections import OrderedDict

from bidkv.policy.parts.ordering import LOOK_PAST, WaitingHeap
from bidkv.policy.parts.reserve import AdmissionRoom
from bidkv.protocol.requests import RequestView

RETURN_PAYBACK = 2.25
"""Times its recompute that a returning request must be able to earn before memory is full again. Below 1 the
return is lost work; much above 1 memory lies idle. Chosen on the tuning seeds, where 1 to 4 differ little."""
PASS_PAYBACK = 2.0
"""The same for a new request that enters in place of a preempted one."""
PASS_GROWTH = 1.0
"""Blocks for each running request that such an entry leaves in any case: one is `block_size` steps."""


class ReturnQueue:
    """The engine's own queue, in which a preempted request that does not fit may be passed.

    An engine waits until the first in the queue fits, while memory lies idle that others could use. Here
    another preempted request may return in its place, or else the first new request may enter. Preempted
    requests return in order of arrival: started work is finished in the order in which it came, and an
    early one cannot be kept out by later ones that need less memory and are preempted again and again.

    Between a preemption and the return at most `passes` other requests enter, new or returning; after that
    the preempted ones return in order of arrival, and nothing passes them.

    Joining, leaving and choosing are O(log preempted); without preempted requests O(1).

    Args:
        passes: requests that may enter while a preempted request waits, at least 0; 0 keeps the engine's
            own order, in which the last preempted request returns first.

    Raises:
        ValueError: `passes` is negative.
    """

    __slots__ = ("_arrived", "_entered", "_new", "_passes", "_places", "_preempted", "_returning", "_turn")

    def __init__(self, passes: int) -> None:
        if passes < 0:
            raise ValueError(f"passes must be >= 0, got {passes}")
        self._passes = passes
        self._new: OrderedDict[str, tuple[RequestView, int]] = OrderedDict()  # with the blocks each needs
        self._places: dict[str, int] = {}  # of all live requests, in order of arrival
        self._arrived = 0
        self._returning = WaitingHeap()
        # With the blocks each needs and `_entered` at its preemption; the first was preempted longest ago.
        self._preempted: OrderedDict[str, tuple[RequestView, int, int]] = OrderedDict()
        self._entered = 0  # requests admitted so far that passed the one preempted longest ago
        self._turn = 0

    def __len__(self) -> int:
        return len(self._new) + len(self._preempted)

    @property
    def holds_preempted(self) -> bool:
        """Whether a preempted request waits."""
        return bool(self._preempted)

    def first_new(self) -> RequestView | None:
        """Return the new request that arrived first, or None."""
        entry = next(iter(self._new.values()), None)
        return None if entry is None else entry[0]

    def arrive(self, request: RequestView, blocks: int) -> None:
        """Queue a new request behind all others; it needs `blocks` to enter."""
        self._new[request.request_id] = (request, blocks)
        self._arrived += 1
        self._places[request.request_id] = self._arrived

    def first_preempted(self) -> RequestView | None:
        """Return the preempted request that returns first, or None."""
        return self._returning.first()

    def preempt(self, request: RequestView, blocks: int, *, first: bool = False) -> None:
        """Queue a preempted request before all new ones; it needs `blocks` to return.

        It returns in its turn, or `first` of all while the one preempted longest ago may be passed.
        """
        self._turn -= 1
        # A policy that is switched on during a run has not seen every arrival.
        in_turn = self._passes and not (first and (not self._preempted or self._may_pass()))
        place = self._places.get(request.request_id, 0) if in_turn else self._turn
        self._returning.push(request, place, blocks)
        self._preempted[request.request_id] = (request, blocks, self._entered)

    def forget(self, request: RequestView) -> None:
        """Remove a request that left the engine."""
        self.discard(request)
        self._places.pop(request.request_id, None)

    def admit(self, request: RequestView) -> None:
        """Remove a request that runs now. Unless it was preempted longest ago, it has passed that one."""
        name = request.request_id
        first = next(iter(self._preempted), None)
        self._entered += name in self._new or (name in self._preempted and name != first)
        self.discard(request)

    def discard(self, request: RequestView) -> None:
        """Remove a request that waits no more; unknown ones are ignored."""
        name = request.request_id
        self._new.pop(name, None)
        if self._preempted.pop(name, None) is not None:
            self._returning.discard(request)

    def choose(self, room: AdmissionRoom) -> RequestView | None:
        """Return the request that enters next; a preempted one must wait.

        A head that does not fit is returned all the same: the engine then admits none. None says the same
        of a head that fits only without its room to grow.
        """
        head = self._returning.first()
        if head is None:
            return self.first_new()
        blocks = self._preempted[head.request_id][1]
        if not self._passes:
            return head
        if blocks + room.growth_blocks(blocks, RETURN_PAYBACK) <= room.free:
            return head
        if self._may_pass():
            left = int(room.free - room.growth_blocks(blocks, RETURN_PAYBACK, PASS_GROWTH))
            other = self._returning.first_fitting(left, 1 + LOOK_PAST) if left > 0 else None
            if other is not None:
                return other
            new = next(iter(self._new.values()), None)
            if (
                new is not None
                and new[1] + room.growth_blocks(new[1], PASS_PAYBACK, PASS_GROWTH) <= room.free
            ):
                return new[0]
        return head if blocks > room.free else None

    def _may_pass(self) -> bool:
        """Whether the request preempted longest ago may be passed once more."""
        return self._entered - next(iter(self._preempted.values()))[2] < self._passes
