"""The cold turns that wait under the `sessions` policy: their order, and how long the first one waits."""

from __future__ import annotations

from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.protocol.requests import RequestView


class _Line:
    """Cold turns of one kind by a fixed key.

    Attributes:
        num_passed: turns of another kind that entered while the present first one was first.
    """

    __slots__ = ("_order", "num_passed")

    def __init__(self) -> None:
        self._order = WaitingHeap()
        self.num_passed = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def first(self) -> RequestView | None:
        return self._order.first()

    def push(self, request: RequestView, key: tuple[int, float]) -> None:
        self._order.push(request, key)
        if self.first is request:
            self.num_passed = 0

    def discard(self, request: RequestView) -> None:
        if self.first is request:
            self.num_passed = 0
        self._order.discard(request)


class ColdQueue:
    """Cold turns in two lines: *last* turns, which end their sessions, and those of sessions that go on.

    Last turns go first: one turn is the least that can be left of a session, and it leaves nothing to keep.
    So a single request, which is a session of one turn, need not wait for sessions of many. Within a line no
    turn passes another: what is let past the first one keeps it out for longer.

    The first of a line is *overdue* once `patience` turns for each resident session entered while it was
    first, resident turns or those of the other line. Then nothing else should enter before it.

    Args:
        patience: turns for every resident session that may enter before the first one, at least 1.
    """

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience must be >= 1, got {patience}")
        self._patience = patience
        self._last = _Line()
        self._going_on = _Line()
        self._members: dict[str, tuple[_Line, int]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, request: RequestView) -> bool:
        return request.request_id in self._members

    def first(self, num_resident: int) -> RequestView | None:
        """Return the turn that enters next; None when none waits.

        Args:
            num_resident: sessions whose past is cached, running ones included.
        """
        return self._next_line(num_resident).first

    def is_overdue(self, num_resident: int) -> bool:
        """Whether nothing may enter before the first one any more.

        Args:
            num_resident: as for :meth:`first`.
        """
        line = self._next_line(num_resident)
        return bool(line) and self._has_waited(line, num_resident)

    def _next_line(self, num_resident: int) -> _Line:
        last, going_on = self._last.first, self._going_on.first
        if last is None or going_on is None:
            return self._going_on if last is None else self._last
        if going_on.priority < last.priority or self._has_waited(self._going_on, num_resident):
            return self._going_on
        return self._last

    def _has_waited(self, line: _Line, num_resident: int) -> bool:
        return line.num_passed >= self._patience * (1 + num_resident)

    def need_blocks(self, request: RequestView) -> int | None:
        """Return the blocks a member takes beside those cached for it, None when it is not a member."""
        member = self._members.get(request.request_id)
        return None if member is None else member[1]

    def push(
        self, request: RequestView, key: tuple[int, float], need_blocks: int, *, is_last: bool = False
    ) -> None:
        """`request` waits; of equal keys the one that came first is first.

        Args:
            request: the turn.
            key: its priority and its place within its line.
            need_blocks: blocks it takes beside those cached for it.
            is_last: whether its session ends with it.
        """
        line = self._last if is_last else self._going_on
        self._members[request.request_id] = line, need_blocks
        line.push(request, key)

    def discard(self, request: RequestView) -> None:
        """`request` waits no more; unknown ones are ignored."""
        member = self._members.pop(request.request_id, None)
        if member is not None:
            member[0].discard(request)

    def note_entered(self, request: RequestView) -> None:
        """`request` entered the engine: from here, or past this queue."""
        member = self._members.get(request.request_id)
        for line in (self._last, self._going_on):
            if line and (member is None or member[0] is not line):
                line.num_passed += 1
        self.discard(request)
