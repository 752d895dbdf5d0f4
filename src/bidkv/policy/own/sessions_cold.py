"""The cold turns that wait under the `sessions` policy: their order, and how long one can be passed."""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.protocol.requests import RequestView


@dataclass(slots=True)
class ColdTurn:
    """A waiting turn whose past is not cached.

    Attributes:
        key: smallest first.
        request: the turn.
        need_blocks: blocks it takes beside those cached for it.
    """

    key: tuple[int, float, int]
    request: RequestView
    need_blocks: int

    def __lt__(self, other: ColdTurn) -> bool:
        return self.key < other.key


class ColdQueue:
    """Cold turns by a fixed key; the first `look_ahead` of them may enter in any order.

    The first one is *overdue* once `most_passes` others entered from this queue while it was first, or
    `patience` turns for each resident session. Then nothing else enters from here before it.

    Args:
        look_ahead: cold turns looked at, at least 1.
        most_passes: cold turns that may enter before the first one, at least 0.
        patience: turns of every resident session that may enter before the first one, at least 1.
    """

    def __init__(self, look_ahead: int, most_passes: int, patience: int) -> None:
        for option, value, least in (
            ("look_ahead", look_ahead, 1),
            ("most_passes", most_passes, 0),
            ("patience", patience, 1),
        ):
            if value < least:
                raise ValueError(f"{option} must be >= {least}, got {value}")
        self._look_ahead = look_ahead
        self._most_passes = most_passes
        self._patience = patience
        # The first ones in order, so that looking at them costs no heap operation; the rest in a heap.
        self._front: list[ColdTurn] = []
        self._heap: list[ColdTurn] = []
        self._turns: dict[str, ColdTurn] = {}
        self._number = 0
        self._passes = 0
        self._turns_since = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, request: RequestView) -> bool:
        return request.request_id in self._turns

    @property
    def front(self) -> Sequence[ColdTurn]:
        """The first `look_ahead` in order; do not change it."""
        return self._front

    def need_blocks(self, request: RequestView) -> int | None:
        """Return the blocks a member takes, None when it is not a member."""
        turn = self._turns.get(request.request_id)
        return None if turn is None else turn.need_blocks

    def is_looked_at(self, request: RequestView) -> bool:
        """Whether a member is among the first `look_ahead`."""
        return any(turn.request is request for turn in self._front)

    def push(self, request: RequestView, key: tuple[int, float], need_blocks: int) -> None:
        """`request` waits; of equal keys the one that came first is first."""
        self._number += 1
        turn = ColdTurn((*key, self._number), request, need_blocks)
        self._turns[request.request_id] = turn
        front = self._front
        if len(front) < self._look_ahead and not self._heap:
            insort(front, turn)
        elif turn < front[-1]:
            insort(front, turn)
            if len(front) > self._look_ahead:
                heapq.heappush(self._heap, front.pop())
        else:
            heapq.heappush(self._heap, turn)
        if front[0] is turn:
            self._passes = self._turns_since = 0

    def discard(self, request: RequestView) -> bool:
        """`request` waits no more; return whether it was a member."""
        turn = self._turns.pop(request.request_id, None)
        if turn is None:
            return False
        front = self._front
        if turn in front:
            if front[0] is turn:
                self._passes = self._turns_since = 0
            front.remove(turn)
            while self._heap and len(front) < self._look_ahead:
                following = heapq.heappop(self._heap)
                if self._turns.get(following.request.request_id) is following:
                    front.append(following)
        elif len(self._heap) > 64 and len(self._heap) > 2 * len(self._turns):
            # Members leave the heap lazily; it must not outgrow what waits.
            self._heap = [member for member in self._heap if self._is_member(member)]
            heapq.heapify(self._heap)
        return True

    def _is_member(self, turn: ColdTurn) -> bool:
        return self._turns.get(turn.request.request_id) is turn

    # --- the bound -------------------------------------------------------------------------------
    def note_entered(self, request: RequestView) -> None:
        """`request` entered the engine: from here, or past this queue."""
        if request.request_id in self._turns:
            is_first = self._front[0].request is request
            self.discard(request)
            if not is_first:
                self._passes += 1
        elif self._turns:
            self._turns_since += 1

    def is_overdue(self, num_resident: int) -> bool:
        """Whether nothing may enter before the first one any more.

        Args:
            num_resident: sessions whose past is cached, running ones included.
        """
        return bool(self._turns) and (
            self._passes >= self._most_passes or self._turns_since >= self._patience * (1 + num_resident)
        )

    def first_fitting(self, room_blocks: float, *, first_only: bool) -> ColdTurn | None:
        """Return the first of those looked at that fits, or None; only the first one where `first_only`."""
        for turn in self._front[:1] if first_only else self._front:
            if turn.need_blocks <= room_blocks:
                return turn
        return None
