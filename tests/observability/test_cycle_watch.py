"""Limit cycles seen through the controller's counters."""

from __future__ import annotations

import math

from bidkv.adapters.cycle_watch import CycleWatch
from bidkv.control import ControlCounters


def watch(*, swing: float, recomputed: int) -> CycleWatch:
    """Two minutes at four looks a second, waves of twelve seconds."""
    counters = ControlCounters()
    cycles = CycleWatch(counters, most_running=100)
    for look in range(480):
        counters.scheduled_tokens += 1000
        counters.recomputed_tokens += recomputed
        cycles.look(look / 4, round(60 + 100 * swing * math.sin(look / 4 * 2 * math.pi / 12)))
    return cycles


def test_waves_with_recompute_are_a_cycle() -> None:
    assert watch(swing=0.3, recomputed=300).cycling


def test_waves_alone_or_recompute_alone_are_none() -> None:
    assert not watch(swing=0.3, recomputed=0).cycling
    assert not watch(swing=0.02, recomputed=300).cycling
