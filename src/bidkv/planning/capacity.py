"""The plan itself, in closed form, without a simulation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.planning.demand import ArrivalWindows, Demand
from bidkv.profiles import StepTimeProfile
from bidkv.stability import (
    Assessment,
    LengthLaw,
    Limit,
    QuantizationAdvisor,
    ReplicaModel,
    ReplicaShape,
    ReplicaState,
    ServiceRate,
    assess,
    blocks_at_bits,
    service_rate,
)

TTFT_MARGIN = 2.0
"""Factor on the predicted wait in the 99th percentile of the time to first token, where a target bounds it.

Simulated runs up to 80 % of the sustainable rate wait 0.9 to 2.2 times as long as predicted beside the time
of the prompt itself, which is predicted well.
"""

TPOT_MARGIN = 1.2
"""Factor on the predicted time per output token where a target bounds it.

Simulated runs have 0.9 to 1.3 times the prediction, above 1.2 only for short answers near saturation.
"""


UNPROMISED_UTILIZATION, PROMISED_UTILIZATION = 0.8, 0.95
"""Share of the sustainable rate that a replica carries at most: without a target, and with one.

Without a target the share alone keeps latencies in bounds; with one the target does.
"""


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


_KV_BITS = (8, 4, 2)
"""Widths of KV values that the controller advises, besides 16."""


@dataclass(frozen=True, slots=True)
class KvAdvice:
    """The width of KV values that the queueing controller advises for a load.

    Attributes:
        utilization: arrivals at a replica over what it sustains.
        bits: 16, 8, 4 or 2 per value.
        blocks: blocks that the memory of a replica holds with values of that width.
    """

    utilization: float
    bits: int
    blocks: int


@dataclass(frozen=True, slots=True)
class CapacityPlan:
    """Whether the load can be sustained, how many replicas it takes, and what limits them.

    Attributes:
        source: where the lengths come from.
        arrivals_rps: mean load now, requests per second.
        busy_rps: the load the replicas are planned for: that of the busiest windows, where arrivals are not
            stationary, else the mean.
        windows: arrivals over time, where the demand comes from a trace that is long enough.
        replicas_over_time: replicas for each window's load.
        mean_output_tokens: of the requests.
        growth: factor on it to plan for.
        target_utilization: share of the sustainable rate a replica is planned to carry.
        service: what one replica sustains.
        one_replica: the load held against one replica.
        promised_rps: the largest rate of one replica alone within the target; None when nothing is bounded.
        planned_rps: the most that one replica is planned to carry; with a target what each of `replicas`
            carries, 0 when the target cannot be kept.
        replicas: for the load now; None when no number keeps the target.
        replicas_grown: for the grown load.
        each: one of `replicas` under its share of `busy_rps`, in closed form; None where there is no number,
            or where :func:`bidkv.planning.sizing.size_plan` found it by simulation.
        kv_advice: the controller's advice for KV values at that share.
        options: changes of the replica, and what they would buy.
    """

    source: str
    arrivals_rps: float
    busy_rps: float
    windows: ArrivalWindows | None
    replicas_over_time: tuple[int | None, ...]
    mean_output_tokens: float
    growth: float
    target_utilization: float
    service: ServiceRate
    one_replica: Assessment
    promised_rps: float | None
    planned_rps: float
    replicas: int | None
    replicas_grown: int | None
    each: ReplicaState | None
    kv_advice: KvAdvice
    options: tuple[ReplicaOption, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        document = asdict(self)
        document["purchases"] = document.pop("options")
        if self.windows is None:
            del document["replicas_over_time"]
        else:
            document["windows"]["replicas"] = document.pop("replicas_over_time")
        return document


def make_plan(
    demand: Demand,
    shape: ReplicaShape,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget = NO_TARGET,
    growth: float = 2.0,
    target_utilization: float | None = None,
    cached_prompt_share: float = 0.0,
    kv_bits: int = 16,
) -> CapacityPlan:
    """Plan the capacity for a demand.

    Args:
        demand: lengths and arrivals.
        shape: one replica.
        profile: its step times.
        target: bounds on the 99th percentile of the time to first token, and on the mean time per output
            token.
        growth: factor on the load, above 0.
        target_utilization: in (0, 1]; None for :data:`UNPROMISED_UTILIZATION` or
            :data:`PROMISED_UTILIZATION`.
        cached_prompt_share: share of prompt tokens found in the prefix cache, in [0, 1).
        kv_bits: bits of a KV value now; fewer are among the changes that a plan prices. Their shorter
            attention is left out, so that they may buy a little more than stated.

    Raises:
        ValueError: an argument out of range, or lengths of which none fits.
    """
    if not 0.0 < growth < math.inf:
        raise ValueError(f"growth must be > 0 and finite, got {growth}")
    if target_utilization is None:
        target_utilization = UNPROMISED_UTILIZATION if target.is_empty else PROMISED_UTILIZATION
    if not 0.0 < target_utilization <= 1.0:
        raise ValueError(f"target_utilization must be in (0, 1], got {target_utilization}")
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s

    def one(shape: ReplicaShape) -> _Replica:
        service = service_rate(demand.law, shape, step_time, cached_prompt_share=cached_prompt_share)
        model = ReplicaModel(demand.law, shape, step_time, cached_prompt_share=cached_prompt_share)
        return _Replica(service, model, target, target_utilization * service.sustainable_rps)

    now = one(shape)
    rate = demand.busy.value
    replicas = now.fewest(rate)
    options = []
    for name, changed in _changes(shape, now.service, kv_bits):
        # More memory would also admit longer requests; the demand must stay the same.
        after = one(replace(changed, max_model_len=shape.longest_tokens))
        gain = 100.0 * (after.service.sustainable_rps / now.service.sustainable_rps - 1.0)
        needed = after.fewest(growth * rate)
        options.append(ReplicaOption(name, after.service.sustainable_rps, gain, needed))
    windows = demand.windows
    return CapacityPlan(
        source=demand.source,
        arrivals_rps=demand.arrivals.value,
        busy_rps=rate,
        windows=windows,
        replicas_over_time=() if windows is None else tuple(now.fewest(r) for r in windows.rates_rps),
        mean_output_tokens=_mean_output(demand.law),
        growth=growth,
        target_utilization=target_utilization,
        service=now.service,
        one_replica=assess(demand.busy, now.service),
        promised_rps=now.promised_rps(),
        planned_rps=_planned_rps(now, rate, replicas),
        replicas=replicas,
        replicas_grown=now.fewest(growth * rate),
        each=None if replicas is None else now.model.at(rate / replicas, replicas=replicas),
        kv_advice=advise_kv(
            rate / max(replicas or 1, 1) / now.service.sustainable_rps, shape.num_blocks, kv_bits
        ),
        options=tuple(options),
    )


def _mean_output(law: LengthLaw) -> float:
    points = law.sample()
    return math.fsum(w * o for _, o, w in points) / math.fsum(w for _, _, w in points)


_MOST_REPLICAS = 100_000
"""Largest number of replicas that is looked at; a target that needs more cannot be kept by any number."""


@dataclass(frozen=True, slots=True)
class _Replica:
    """One kind of replica: what it sustains, and the most it is planned to carry in any case."""

    service: ServiceRate
    model: ReplicaModel
    target: LatencyTarget
    most_rps: float

    def fewest(self, rate_rps: float) -> int | None:
        """Return the smallest number of replicas behind a round-robin router that keeps the target."""
        if rate_rps <= 0.0:
            return 0
        number = max(math.ceil(round(rate_rps / self.most_rps, 9)), 1)
        if self._keeps(rate_rps, number):
            return number
        too_few = number
        while not self._keeps(rate_rps, number):
            too_few, number = number, 2 * number
            if number > _MOST_REPLICAS:
                return None
        while number - too_few > 1:
            middle = (number + too_few) // 2
            too_few, number = (too_few, middle) if self._keeps(rate_rps, middle) else (middle, number)
        return number

    def promised_rps(self) -> float | None:
        """Return the largest rate of a single replica within the target; None where nothing is bounded."""
        if self.target.is_empty:
            return None
        return self.model.largest_rate_where(self._is_kept)

    def _keeps(self, rate_rps: float, number: int) -> bool:
        if self.target.is_empty:
            return True
        state = self.model.at(rate_rps / number, replicas=number)
        return state is not None and self._is_kept(state)

    def _is_kept(self, state: ReplicaState) -> bool:
        wait_s = state.ttft_p99_high_s - state.ttft_p99_alone_s
        ttft_s, tpot_s = self.target.ttft_s, self.target.tpot_s
        is_early = ttft_s is None or state.ttft_p99_alone_s + TTFT_MARGIN * wait_s <= ttft_s
        return is_early and (tpot_s is None or TPOT_MARGIN * state.answer_tpot_s <= tpot_s)


def _planned_rps(replica: _Replica, rate_rps: float, replicas: int | None) -> float:
    if replica.target.is_empty:
        return replica.most_rps
    return 0.0 if replicas is None else rate_rps / replicas


def _changes(shape: ReplicaShape, service: ServiceRate, kv_bits: int) -> list[tuple[str, ReplicaShape]]:
    changes = [
        (
            f"KV values of {bits} instead of {kv_bits} bits",
            replace(shape, num_blocks=blocks_at_bits(shape.num_blocks, kv_bits, bits)),
        )
        for bits in _KV_BITS
        if bits < kv_bits
    ]
    changes.append(("half as much memory again for KV", replace(shape, num_blocks=shape.num_blocks * 3 // 2)))
    if service.limit is Limit.SEQUENCES:
        changes.append(("twice the sequences", replace(shape, max_num_seqs=2 * shape.max_num_seqs)))
    return changes


def advise_kv(utilization: float, blocks: int, kv_bits: int) -> KvAdvice:
    """Return what the controller advises for the KV values of a replica.

    Args:
        utilization: arrivals at it over what it sustains.
        blocks: its blocks now.
        kv_bits: bits of a KV value now.
    """
    bits = min(QuantizationAdvisor().advise(utilization), kv_bits)
    return KvAdvice(utilization, bits, blocks_at_bits(blocks, kv_bits, bits))
