"""Loads for the alarm: requests of a law of lengths, queued to measure a server and spread to load it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.families import FAMILIES

LAWS = ("uniform-1-1", "mixed", "sharegpt")
STABLE_LOADS, UNSTABLE_LOADS = (0.3, 0.6, 0.8, 0.9), (1.05, 1.18, 1.5)
"""Shares of the sustainable rate that must be called stable, and unstable; between them either is right."""
SETTLED_S, END_S, EVERY_S = 480.0, 1080.0, 5.0
"""Ten minutes are judged after eight minutes of settling; Prometheus scrapes every five seconds."""


def queued(law: str, count: int) -> list[WorkloadRequest]:
    """Requests of the law that all wait from the start."""
    return FAMILIES[law](count, math.inf, 1)


def middle_rate(finished_s: Sequence[float]) -> float:
    """Requests a second that a server finishes of a queue, its first and last tenth left out."""
    ordered = sorted(finished_s)
    tenth = len(ordered) // 10
    return (len(ordered) - 2 * tenth) / (ordered[-tenth - 1] - ordered[tenth - 1])


def poisson(
    law: str, requests: Sequence[WorkloadRequest], load: float, rate_rps: float
) -> list[WorkloadRequest]:
    """The same lengths again and again, arriving at `load` times `rate_rps` until the end."""
    random, now_s, made = Random(f"{law}:{load}"), 0.0, []
    while now_s <= END_S:
        index = len(made)
        made.append(replace(requests[index % len(requests)], request_id=f"r{index}", arrival_s=now_s))
        now_s += random.expovariate(load * rate_rps)
    return made
