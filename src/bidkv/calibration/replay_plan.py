"""What a replay's plan asks for: the requests of one run, the same for the recorder and for its readers."""

from __future__ import annotations

import math
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import generate
from bidkv.workloads.families import FAMILIES

TIMELINE_EVERY = 20
"""Steps from one point of a run's timeline to the next."""


def workload(spec: dict[str, Any]) -> list[WorkloadRequest]:
    """The requests of one run of the plan."""
    rate = math.inf if spec["rate_rps"] is None else float(spec["rate_rps"])
    if spec["family"] in FAMILIES and math.isfinite(rate):
        return FAMILIES[spec["family"]](n=spec["n"], rate_rps=rate, seed=spec["seed"])
    return list(
        generate(spec["family"], n=spec["n"], rate_rps=rate, seed=spec["seed"], **spec.get("params", {}))
    )
