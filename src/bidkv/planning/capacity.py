"""The plan itself, in closed form, without a simulation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.planning.demand import Demand
from bidkv.profiles import StepTimeProfile
from bidkv.stability import (
    Assessment,
    Limit,
    ReplicaModel,
    ReplicaShape,
    ReplicaState,
    ServiceRate,
    assess,
    blocks_at_bits,
    service_rate,
)


@dataclass(frozen=True, slots=True)
class ReplicaOption:
    """A change of the replica, and what it would buy.

    Attributes:
        name: the change.
        sustainable_rps: requests per second of one replica after it.
        gain_pct: percent more than now.
        replicas: replicas for the grown load after it; None when no number keeps the target.
    """

    name: str
    sustainable_rps: float
    gain_pct: float
    replicas: int | None


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Whether the load can be sustained, how many replicas it takes, and what limits them.

    Attributes:
        source: where the lengths come from.
        arrivals_rps: the load now, requests per second.
        growth: factor on it to plan for.
        target_utilization: share of the sustainable rate a replica is planned to carry.
        service: what one replica sustains.
        one_replica: the load held against one replica.
        promised_rps: the largest rate within the target; None when nothing is bounded.
        planned_rps: what one replica is planned to carry; 0 when the target cannot be kept.
        replicas: for the load now; None when no number keeps the target.
        replicas_grown: for the grown load.
        each: one of `replicas` under its share of the load now.
        options: changes of the replica, and what they would buy.
    """

    source: str
    arrivals_rps: float
    growth: float
    target_utilization: float
    service: ServiceRate
    one_replica: Assessment
    promised_rps: float | None
    planned_rps: float
    replicas: int | None
    replicas_grown: int | None
    each: ReplicaState | None
    options: tuple[ReplicaOption, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        document = asdict(self)
        document["purchases"] = document.pop("options")
        return document


def make_plan(
    demand: Demand,
    shape: ReplicaShape,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget = NO_TARGET,
    growth: float = 2.0,
    target_utilization: float = 0.8,
    cached_prompt_share: float = 0.0,
) -> CapacityPlan:
    """Plan the capacity for a demand.

    Args:
        demand: lengths and arrivals.
        shape: one replica.
        profile: its step times.
        target: bounds on the 99th percentile of the time to first token, and on the mean time per output
            token.
        growth: factor on the load, above 0.
        target_utilization: in (0, 1].
        cached_prompt_share: share of prompt tokens found in the prefix cache, in [0, 1).

    Raises:
        ValueError: an argument out of range, or lengths of which none fits.
    """
    if not 0.0 < growth < math.inf:
        raise ValueError("growth must be > 0 and finite")
    if not 0.0 < target_utilization <= 1.0:
        raise ValueError("target_utilization must be in (0, 1]")
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s

    def one(shape: ReplicaShape) -> tuple[ServiceRate, ReplicaModel, float | None, float]:
        """Return what one replica sustains, its model, the rate within the target, and the rate planned."""
        service = service_rate(demand.law, shape, step_time, cached_prompt_share=cached_prompt_share)
        model = ReplicaModel(demand.law, shape, step_time, cached_prompt_share=cached_prompt_share)
        planned = target_utilization * service.sustainable_rps
        if target.is_empty:
            return service, model, None, planned
        promised = model.largest_rate(
            ttft_p99_s=math.inf if target.ttft_s is None else target.ttft_s,
            tpot_s=math.inf if target.tpot_s is None else target.tpot_s,
        )
        return service, model, promised, min(planned, promised)

    service, model, promised, planned = one(shape)
    rate = demand.arrivals.value
    replicas = _replicas(rate, planned)
    options = []
    for name, changed in _changes(shape, service):
        # More memory would also admit longer requests; the demand must stay the same.
        after, _, _, planned_after = one(replace(changed, max_model_len=shape.longest_tokens))
        gain = 100.0 * (after.sustainable_rps / service.sustainable_rps - 1.0)
        needed = _replicas(growth * rate, planned_after)
        options.append(ReplicaOption(name, after.sustainable_rps, gain, needed))
    return CapacityPlan(
        source=demand.source,
        arrivals_rps=rate,
        growth=growth,
        target_utilization=target_utilization,
        service=service,
        one_replica=assess(demand.arrivals, service),
        promised_rps=promised,
        planned_rps=planned,
        replicas=replicas,
        replicas_grown=_replicas(growth * rate, planned),
        each=None if replicas is None else model.at(rate / replicas),
        options=tuple(options),
    )


def _replicas(rate_rps: float, planned_rps: float) -> int | None:
    if planned_rps <= 0.0:
        return None
    return max(math.ceil(round(rate_rps / planned_rps, 9)), 1)


def _changes(shape: ReplicaShape, service: ServiceRate) -> list[tuple[str, ReplicaShape]]:
    changes = [
        (
            "KV values of 8 instead of 16 bits",
            replace(shape, num_blocks=blocks_at_bits(shape.num_blocks, 16, 8)),
        ),
        (
            "KV values of 4 instead of 16 bits",
            replace(shape, num_blocks=blocks_at_bits(shape.num_blocks, 16, 4)),
        ),
        ("half as much memory again for KV", replace(shape, num_blocks=shape.num_blocks * 3 // 2)),
    ]
    if service.limit is Limit.SEQUENCES:
        changes.append(("twice the sequences", replace(shape, max_num_seqs=2 * shape.max_num_seqs)))
    return changes
