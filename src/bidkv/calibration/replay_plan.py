"""The plan of a replay: its runs, and the requests of a run, for its maker and its readers alike."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.families import FAMILIES
from bidkv.workloads.resolver import resolve_workload, stream_requests

TIMELINE_EVERY = 20
"""Steps from one point of a run's timeline to the next."""

_MOST = 10**9
"""Upper bound of every number in a plan; larger ones are slips."""

_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "family": (str,),
    "n": (int,),
    "rate_rps": (int, float, NoneType),
    "seed": (int,),
    "policy": (str,),
    "blocks": (int,),
    "chunk": (int,),
}
_OPTIONAL: dict[str, tuple[type, ...]] = {"max_num_seqs": (int,), "pair": (int,), "async_scheduling": (bool,)}


def make_run_requests(spec: dict[str, Any]) -> list[WorkloadRequest]:
    """Return the requests of one run of the plan.

    A plan names its workload by `workload`, as every command does. Recorded plans name a family by `family`
    instead: with a rate it is the family of that name, without one the synthetic workload.

    Args:
        spec: one entry of :func:`read_runs`.

    Raises:
        ValueError: no such workload, or parameters that it does not take.
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


def read_runs(file: Path) -> list[dict[str, Any]]:
    """Read the plan of :mod:`bidkv.gpu_host.replay`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a list of runs; the message names file, run and field.
    """
    try:
        plan = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: expected JSON ({str(error)[:100]})") from error
    if not isinstance(plan, list):
        raise ValueError(f"{file}: expected a list of runs")
    for number, spec in enumerate(plan):
        missing = [field for field in _KINDS if not isinstance(spec, dict) or field not in spec]
        if missing:
            raise ValueError(f"{file}, run {number}: expected the fields {', '.join(missing)} too")
        for field, kinds in (_KINDS | {f: k for f, k in _OPTIONAL.items() if f in spec}).items():
            value = spec[field]
            good = type(value) in kinds
            if good and type(value) in (int, float):
                good = 0 < value < _MOST or (field == "seed" and value == 0)
            if not good:
                raise ValueError(f"{file}, run {number}: field {field!r}: got {value!r:.60}")
    return plan
