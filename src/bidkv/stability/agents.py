"""Use of the server by agent, counted in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple


class AgentCounts(NamedTuple):
    """One agent's use: arrivals, KV blocks its completed requests took, share of all arrivals."""

    arrivals: int
    blocks: int
    share: float


class AgentTable:
    """Exact counts of the most recently active agents; the rest are summed under :attr:`OTHERS`.

    The agent that has been idle for longest is replaced, in O(1): agents that load the server now are
    always listed.

    >>> table = AgentTable(capacity=2)
    >>> for agent in ("a", "b", "a", "c"):
    ...     table.arrived(agent)
    >>> {name: counts.arrivals for name, counts in table.counts().items()}
    {'a': 2, 'c': 1, '(others)': 1}
    """

    OTHERS = "(others)"
    __slots__ = ("_capacity", "_others", "_rows", "_total")

    def __init__(self, capacity: int = 256) -> None:
        if capacity < 1:
            raise ValueError("capacity must be >= 1")
        self._capacity = capacity
        self._rows: OrderedDict[str, list[int]] = OrderedDict()
        self._others = [0, 0]
        self._total = 0

    def _row(self, agent_id: str) -> list[int]:
        rows = self._rows
        row = rows.get(agent_id)
        if row is not None:
            rows.move_to_end(agent_id)
            return row
        if not isinstance(agent_id, str):
            raise ValueError("agent_id must be a string")
        if len(rows) >= self._capacity:
            _, (arrivals, blocks) = rows.popitem(last=False)
            self._others[0] += arrivals
            self._others[1] += blocks
        row = rows[agent_id] = [0, 0]
        return row

    def arrived(self, agent_id: str) -> None:
        """Count one arrival of `agent_id`; ValueError when it is not a string."""
        self._row(agent_id)[0] += 1
        self._total += 1

    def consumed(self, agent_id: str, blocks: int) -> None:
        """Count `blocks` KV blocks for `agent_id`; ValueError when it is not a string."""
        self._row(agent_id)[1] += blocks

    def counts(self) -> dict[str, AgentCounts]:
        """Return the listed agents, longest idle first, then :attr:`OTHERS` if it sums up any."""
        total = self._total or 1
        listed = {name: AgentCounts(row[0], row[1], row[0] / total) for name, row in self._rows.items()}
        if any(self._others):
            listed[self.OTHERS] = AgentCounts(self._others[0], self._others[1], self._others[0] / total)
        return listed
