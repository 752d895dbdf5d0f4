"""What a replay's plan asks for: the requests of one run, the same for the recorder and for its readers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.families import FAMILIES
from bidkv.workloads.resolver import resolve_workload, stream_requests

TIMELINE_EVERY = 20
"""Steps from one point of a run's timeline to the next."""


def make_run_requests(spec: dict[str, Any]) -> list[WorkloadRequest]:
    """Return the requests of one run of the plan.

    A plan names its workload by `workload`, as every command does. Recorded plans name a family by `family`
    instead: with a rate it is the family of that name, without one the synthetic workload.
    """
    rate = math.inf if spec["rate_rps"] is None else float(spec["rate_rps"])
    name = spec.get("workload")
    if name is None:
        is_family = spec["family"] in FAMILIES and math.isfinite(rate)
        name = f"{'family' if is_family else 'synthetic'}:{spec['family']}"
    found = resolve_workload(name)
    if not found.params and found.kind == "synthetic":
        found = replace(found, params=spec.get("params", {}))
    return list(stream_requests(found, n=spec["n"], rate_rps=rate, seed=spec["seed"]))
