"""What a server's exporters say: this project's own, with everything a result needs, in one small page."""

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
    """One look at the exporter.

    Attributes:
        values: metric name (labels left out, `bidkv_` and `_total` too) to value; only finite ones.
        policies: policy name to whether it decides.
    """

    values: Mapping[str, float]
    policies: Mapping[str, bool]

    @property
    def preemptions(self) -> int:
        """By the policy and by the engine's own rule."""
        return self.count("preemptions_by_policy") + self.count("preemptions_by_engine")

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.count("running_requests") and not self.count("waiting_requests")

    def count(self, name: str) -> int:
        """Return a counter or gauge, 0 when it is not there."""
        return int(self.values.get(name, 0.0))

    def point(self, time_s: float, preemptions_before: int) -> TimelinePoint:
        """Return it as a point of the timeline of a run before which there were so many preemptions."""
        return TimelinePoint(
            time_s=time_s,
            used_blocks=self.count("total_blocks") - self.count("free_blocks"),
            running=self.count("running_requests"),
            waiting=self.count("waiting_requests"),
            preemptions=self.preemptions - preemptions_before,
        )


def read_exporter(url: str) -> Reading:
    """Look at the exporter.

    Raises:
        OSError: nobody answers.
        ValueError: somebody else does.
    """
    return reading_of(get_text(url))


def reading_of(page: str) -> Reading:
    """Read the exporter's page.

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
        OSError: nobody answers, or with an error.
    """
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    # A proxy of the environment is for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
        return text
