"""A plan as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.evaluation.figures import percent, rate, seconds
from bidkv.planning.capacity import CapacityPlan
from bidkv.planning.check import RateCheck
from bidkv.planning.demand import BUSY_SHARE
from bidkv.planning.fleet import FleetAnswer, FleetCheck, FleetVerification
from bidkv.planning.sizing import Sizing
from bidkv.stability import Limit

_MOST_TIMES = 24
"""Lines of the table of replicas over time."""

_LIMITS = {
    Limit.MEMORY: "KV memory",
    Limit.COMPUTE: "compute",
    Limit.SEQUENCES: "max_num_seqs",
}


def plan_text(
    plan: CapacityPlan,
    checks: Sequence[RateCheck] = (),
    fleet: FleetVerification | None = None,
    sizing: Sizing | None = None,
) -> str:
    """Return the plan as lines of text.

    Args:
        plan: the closed form's.
        checks: rates that were simulated on one replica.
        fleet: whole fleets that were simulated to test the plan, or None.
        sizing: how simulation found the number of replicas, or None where the closed form's is used.
    """
    service, one = plan.service, plan.one_replica
    lines = [
        f"{plan.source}: {rate(plan.arrivals_rps)} req/s arrive{_rhythm(plan)}",
        "",
        f"one replica sustains   {rate(service.sustainable_rps)} req/s "
        f"({rate(service.low_rps)} to {rate(service.high_rps)})",
        f"  published formula    {rate(service.plain_rps)} req/s, M / (b E[g]) with the median step of "
        f"{1e3 * service.median_step_s:.1f} ms",
        f"  limited by           {_LIMITS[service.limit]}; "
        f"1 % more memory gives {service.memory_elasticity:.2f} % more",
        f"  at saturation        {service.running:.0f} running, {percent(service.memory_fill)} of KV in use, "
        f"{service.preemptions_per_request:.2f} preemptions a request, "
        f"{percent(service.recompute_tax)} recomputed",
        f"on one replica         {one.verdict}, utilization {percent(one.utilization)} "
        f"({percent(one.utilization_low)} to {percent(one.utilization_high)}; "
        f"published formula {percent(one.plain_utilization)})",
    ]
    if service.refused_share > 0.0:
        lines.append(f"  refused              {percent(service.refused_share)} of requests are too long")
    if plan.promised_rps is not None:
        lines.append(f"within the target      {rate(plan.promised_rps)} req/s on one replica alone")
    lines.append(_replicas(plan))
    if sizing is not None:
        lines += _found(sizing, plan.growth)
    if plan.each is not None:
        lines.append(
            f"  each replica then    {percent(plan.each.memory_fill)} of KV in use, "
            f"{1e3 * plan.each.answer_tpot_s:.1f} ms a token, first token {seconds(plan.each.ttft_s)} "
            f"(p99 about {seconds(plan.each.ttft_p99_high_s)})"
        )
    lines.append(_advice(plan))
    lines += _over_time(plan)
    lines += ["", "what more would gain"]
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
            + ("grows" if c.is_growing else "stays short")
            for c in checks
        ]
    if fleet is not None:
        lines += ["", f"simulated, whole fleets behind a {fleet.router} router under the engine's own rule"]
        for when, answer in (("now", fleet.now), (f"at {plan.growth:g}x", fleet.grown)):
            lines += [
                f"  planned {when:<8} {_fleet(answer.planned, fleet.has_target)}",
                _fewest(when, answer, fleet.has_target),
            ]
    return "\n".join(lines)


def _rhythm(plan: CapacityPlan) -> str:
    """Say how the arrivals vary, where they do."""
    if plan.windows is None or plan.windows.is_stationary:
        return ""
    return (
        f" on average, and {rate(plan.busy_rps)} in the busiest {100 * (1 - BUSY_SHARE):.0f} % of windows of "
        f"{plan.windows.window_s / 60:.0f} minutes, which the replicas are planned for"
    )


def _advice(plan: CapacityPlan) -> str:
    """Say what the controller advises for the width of KV values, and what that buys."""
    advice = plan.kv_advice
    says = f"KV values of {advice.bits} bits, by the controller's rule at {percent(advice.utilization)} load"
    bought = next((p for p in plan.options if p.name.startswith(f"KV values of {advice.bits} ")), None)
    if bought is not None:
        says += f": {advice.blocks:,} blocks, {rate(bought.sustainable_rps)} req/s ({bought.gain_pct:+.0f} %)"
    return f"  advised              {says}"


def _over_time(plan: CapacityPlan) -> list[str]:
    """Return the replicas over time where arrivals vary: at most a day's worth of lines."""
    windows = plan.windows
    needed = [number for number in plan.replicas_over_time if number is not None]
    if windows is None or windows.is_stationary or not needed:
        return []
    step = -(-len(needed) // _MOST_TIMES)
    lines = ["", "replicas over time (the busiest window of each line)"]
    for start in range(0, len(needed), step):
        part = slice(start, start + step)
        begin_h, end_h = (
            min(index, len(needed)) * windows.window_s / 3600 for index in (start, start + step)
        )
        peak = max(windows.rates_rps[part])
        lines.append(f"  {begin_h:6.2f} to {end_h:6.2f} h   {rate(peak):>7} req/s   {max(needed[part])}")
    return lines


def _fewest(when: str, answer: FleetAnswer, has_target: bool) -> str:
    if answer.fewest is None:
        return f"  fewest {when:<9} more than {2 * answer.planned.replicas}: twice the plan is too few"
    return f"  fewest {when:<9} {_fleet(answer.fewest, has_target)}"


def _fleet(check: FleetCheck, has_target: bool) -> str:
    outcome = "the queues stay short"
    if check.is_growing:
        outcome = "the queues grow"
    elif has_target:
        outcome = "keeps the target" if check.holds else "misses the target"
    plural = "" if check.replicas == 1 else "s"
    return (
        f"{check.replicas} replica{plural}, {rate(check.arrivals_rps)} req/s in, "
        f"{percent(check.kv_use)} KV used, first token p99 {seconds(check.ttft_p99_s)}, "
        f"{1e3 * check.tpot_s:.1f} ms a token: {outcome}"
    )


def _found(sizing: Sizing, growth: float) -> list[str]:
    """Say how the numbers of replicas were found, and what the fleets then do."""
    alone = ["no number" if n is None else str(n) for n in (sizing.closed_form, sizing.closed_form_grown)]
    lines = [
        f"  found by             simulation behind a {sizing.router} router; the closed form says "
        f"{alone[0]} now, {alone[1]} at {growth:g}x"
    ]
    for when, check in (("now", sizing.now), (f"at {growth:g}x", sizing.grown)):
        if check is not None:
            lines.append(
                f"  simulated {when:<10} {percent(check.kv_use)} of KV in use, {1e3 * check.tpot_s:.1f} ms a "
                f"token, first token p99 {seconds(check.ttft_p99_s)}"
            )
    return lines


def _replicas(plan: CapacityPlan) -> str:
    if plan.replicas is None:
        return "replicas               no number of replicas keeps the target"
    grown = "no number" if plan.replicas_grown is None else str(plan.replicas_grown)
    return (
        f"replicas               {plan.replicas} now, {grown} at {plan.growth:g}x "
        f"({rate(plan.planned_rps)} req/s each)"
    )
