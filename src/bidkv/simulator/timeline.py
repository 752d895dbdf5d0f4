"""A bounded record of the engine's state over time."""

from __future__ import annotations

from bidkv.results import TimelinePoint


class TimelineRecorder:
    """Keeps at most `limit` points of a run of unknown length, evenly spread over its steps.

    Every `stride`-th step is kept. When the list is full, every second point goes and the stride doubles.
    """

    def __init__(self, limit: int) -> None:
        if limit < 2:
            raise ValueError(f"a timeline needs room for at least 2 points, got {limit}")
        self._limit = limit
        self._stride = 1
        self._due = 0
        self.points: list[TimelinePoint] = []

    def offer(self, step: int, point_args: tuple[float, int, int, int, int, int]) -> None:
        """Record a `TimelinePoint` of the state after `step`, given by its fields, if one is due."""
        if step < self._due:
            return
        self.points.append(TimelinePoint(*point_args))
        if len(self.points) >= self._limit:
            del self.points[1::2]
            self._stride *= 2
        self._due = step + self._stride
