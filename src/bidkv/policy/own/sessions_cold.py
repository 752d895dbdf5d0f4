"""The cold turns that wait under the `sessions` policy: their order, and how long the first one waits."""

from __future__ import annotations

from bidkv.policy.parts.ordering import WaitingHeap
from bidkv.protocol.requests import RequestView


class ColdQueue:
    """Cold turns by a fixed key. None passes another: what is let past the first one keeps it out for longer.

    The first one is *overdue* once `patience` turns of each resident session entered while it was first.
    Then nothing else should enter before it.

    Args:
        patience: turns of every resident session that may enter before the first one, at least 1.
    """

    def __init__(self, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience must be >= 1, got {patience}")
        self._patience = patience
        self._order = WaitingHeap()
        self._need_blocks: dict[str, int] = {}
        self._turns_since = 0

    def __len__(self) -> int:
        return len(self._need_blocks)

    def __contains__(self, request: RequestView) -> bool:
        return request.request_id in self._need_blocks

    @property
    def first(self) -> RequestView | None:
        """The turn that enters next; None when none waits."""
        return self._order.first()

    def need_blocks(self, request: RequestView) -> int | None:
        """Return the blocks a member takes beside those cached for it, None when it is not a member."""
        return self._need_blocks.get(request.request_id)

    def push(self, request: RequestView, key: tuple[int, float], need_blocks: int) -> None:
        """`request` waits; of equal keys the one that came first is first."""
        self._need_blocks[request.request_id] = need_blocks
        self._order.push(request, key)
        if self._order.first() is request:
            self._turns_since = 0

    def discard(self, request: RequestView) -> bool:
        """`request` waits no more; return whether it was a member."""
        if self._need_blocks.pop(request.request_id, None) is None:
            return False
        if self._order.first() is request:
            self._turns_since = 0
        self._order.discard(request)
        return True

    def note_entered(self, request: RequestView) -> None:
        """`request` entered the engine: from here, or past this queue."""
        if not self.discard(request) and self._need_blocks:
            self._turns_since += 1

    def is_overdue(self, num_resident: int) -> bool:
        """Whether nothing may enter before the first one any more.

        Args:
            num_resident: sessions whose past is cached, running ones included.
        """
        return bool(self._need_blocks) and self._turns_since >= self._patience * (1 + num_resident)
