"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.evaluation.figures import percent, rate, seconds
from bidkv.planning.capacity import CapacityPlan
from bidkv.planning.check import RateCheck
from bidkv.planning.fleet import FleetAnswer, FleetCheck, FleetVerification
from bidkv.stability import Limit

_LIMITS = {
    Limit.MEMORY: "KV memory",
    Limit.COMPUTE: "compute",
    Limit.SEQUENCES: "max_num_seqs",
}


def plan_text(
    plan: CapacityPlan, checks: Sequence[RateCheck] = (), fleet: FleetVerification | None = None
) -> str:
    """Return the plan as lines of text."""
    service, one = plan.service, plan.one_replica
    lines = [
        f"{plan.source}: {rate(plan.arrivals_rps)} req/s arrive",
        "",
        f"one replica sustains   {rate(service.sustainable_rps)} req/s "
        f"({rate(service.low_rps)} to {rate(service.high_rps)})",
        f"  published formula    {rate(service.plain_rps)} req/s, M / (b E[g]) with the median step of "
        f"{1e3 * service.median_step_s:.1f} ms",
        f"  limited by           {_LIMITS[service.limit]}; "
        f"1 % more memory buys {service.memory_elasticity:.2f} %",
        f"  at saturation        {service.running:.0f} running, {percent(service.memory_fill)} of KV in use, "
        f"{service.preemptions_per_request:.2f} preemptions a request, "
        f"{percent(service.recompute_tax)} recomputed",
        f"this load on one       {one.verdict}, utilization {percent(one.utilization)} "
        f"({percent(one.utilization_low)} to {percent(one.utilization_high)}; "
        f"published formula {percent(one.plain_utilization)})",
    ]
    if service.refused_share > 0.0:
        lines.append(f"  refused              {percent(service.refused_share)} of requests are too long")
    if plan.promised_rps is not None:
        lines.append(f"within the target      {rate(plan.promised_rps)} req/s a replica")
    lines.append(_replicas(plan))
    if plan.each is not None:
        lines.append(
            f"  each then            {percent(plan.each.memory_fill)} of KV in use, "
            f"{1e3 * plan.each.tpot_s:.1f} ms a token, first token {seconds(plan.each.ttft_s)} "
            f"(p99 about {seconds(plan.each.ttft_p99_s)})"
        )
    lines += ["", "what more would buy"]
    lines += [
        f"  {p.name:<36} {rate(p.sustainable_rps):>7} req/s ({p.gain_pct:+.0f} %), "
        + ("target not kept" if p.replicas is None else f"replicas at {plan.growth:g}x: {p.replicas}")
        for p in plan.options
    ]
    if checks:
        lines += ["", "simulated, one replica under the engine's own rule"]
        lines += [
            f"  {c.share:.2f} of the predicted rate: {rate(c.arrivals_rps)} req/s in, "
            f"{rate(c.throughput_rps)} out, {percent(c.kv_use)} of KV in use, the queue "
            + ("grows" if c.is_growing else "stays")
            for c in checks
        ]
    if fleet is not None:
        lines += ["", f"simulated, whole fleets behind a {fleet.router} router under the engine's own rule"]
        for when, answer in (("now", fleet.now), (f"at {plan.growth:g}x", fleet.grown)):
            lines += [f"  planned {when:<8} {_fleet(answer.planned)}", _fewest(when, answer)]
    return "\n".join(lines)


def _fewest(when: str, answer: FleetAnswer) -> str:
    if answer.fewest is None:
        return f"  fewest {when:<9} more than {2 * answer.planned.replicas}: twice the plan does not hold"
    return f"  fewest {when:<9} {_fleet(answer.fewest)}"


def _fleet(check: FleetCheck) -> str:
    outcome = "the queues grow" if check.is_growing else "holds" if check.holds else "misses the target"
    return (
        f"{check.replicas} replicas, {rate(check.arrivals_rps)} req/s in, {percent(check.kv_use)} KV used, "
        f"first token p99 {seconds(check.ttft_p99_s)}, {1e3 * check.tpot_s:.1f} ms a token: {outcome}"
    )


def _replicas(plan: CapacityPlan) -> str:
    if plan.replicas is None:
        return "replicas               no number of replicas keeps the target"
    return (
        f"replicas               {plan.replicas} now, {plan.replicas_grown} at {plan.growth:g}x "
        f"({rate(plan.planned_rps)} req/s each)"
    )
