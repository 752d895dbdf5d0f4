"""Collects what a server's exporter says: this project's own page has everything a result needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bidkv.observability.prometheus_page import get_text, parse_page
from bidkv.results import TimelinePoint

_NOT_TAKEN = "bidkv_decision_seconds"
"""A histogram: its buckets are not a figure of a run."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One page of the exporter.

    Attributes:
        values: metric name (labels left out, `bidkv_` and `_total` too) to value; only finite ones.
        policies: policy name to whether it decides.
    """

    values: Mapping[str, float]
    policies: Mapping[str, bool]

    @property
    def preemptions(self) -> int:
        """Preemptions by the policy and by the engine's own rule."""
        return self.count("preemptions_by_policy") + self.count("preemptions_by_engine")

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.count("running_requests") and not self.count("waiting_requests")

    def count(self, name: str) -> int:
        """Return a counter or gauge, 0 when it is not there."""
        return int(self.values.get(name, 0.0))

    def point(self, time_s: float, preemptions_before: int) -> TimelinePoint:
        """Return a point of a run's timeline; preemptions before the run are not counted."""
        return TimelinePoint(
            time_s=time_s,
            used_blocks=self.count("total_blocks") - self.count("free_blocks"),
            running=self.count("running_requests"),
            waiting=self.count("waiting_requests"),
            preemptions=self.preemptions - preemptions_before,
        )


def read_exporter(url: str) -> Reading:
    """Fetch and parse the exporter's page.

    Raises:
        OSError: no answer.
        ValueError: the page is not the exporter's.
    """
    return parse_exporter(get_text(url))


def parse_exporter(page: str) -> Reading:
    """Parse the exporter's page.

    Raises:
        ValueError: a line is not one of the exporter's.
    """
    values: dict[str, float] = {}
    policies: dict[str, bool] = {}
    for name, labels, value in parse_page(page):
        if name == "bidkv_policy_active":
            policies[labels.get("policy", "")] = value == 1.0
        elif name.startswith("bidkv_") and not name.startswith(_NOT_TAKEN) and math.isfinite(value):
            values[name.removeprefix("bidkv_").removesuffix("_total")] = value
    return Reading(values, policies)
