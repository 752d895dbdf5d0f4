"""Collects what a server's exporter says: this project's own page has everything a result needs."""

from __future__ import annotations

import math
import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from bidkv.results import TimelinePoint

_TIMEOUT_S = 10.0
_POLICY = re.compile(r'bidkv_policy_active\{policy="([^"]*)"\}')


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
    for line in page.splitlines():
        if not line.startswith("bidkv_") or line.startswith("bidkv_decision_seconds"):
            continue
        name, _, text = line.rpartition(" ")
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"the exporter's page: expected NAME VALUE, got {line[:60]!r}") from None
        policy = _POLICY.match(name)
        if policy is not None:
            policies[policy[1]] = value == 1.0
        elif math.isfinite(value):
            values[name.removeprefix("bidkv_").removesuffix("_total")] = value
    return Reading(values, policies)


def get_text(url: str, body: bytes | None = None) -> str:
    """Fetch a page of a local server; with a body, post it.

    Raises:
        OSError: no answer, or an error.
    """
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    # The environment's proxy is meant for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
        return text
