"""A plan for sessions: rates, replicas and users, under the engine's order and under `sessions`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bidkv.evaluation.figures import percent, rate, seconds
from bidkv.evaluation.latency_target import NO_TARGET, LatencyTarget
from bidkv.planning.capacity import PROMISED_UTILIZATION, UNPROMISED_UTILIZATION
from bidkv.planning.replica import shape_of
from bidkv.planning.session_rate import SessionRates, SessionReplica, session_rates
from bidkv.planning.session_target import OnCheck, SessionCheck, largest_rate
from bidkv.planning.session_traffic import SessionTraffic
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.sessions import Session
from bidkv.simulator import EngineConfig

_GUESS = 0.7
"""Share of the sustainable rate at which the search for the largest rate within a target begins."""


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """The plan under one order.

    Attributes:
        order: `preempt-evict` (the engine's) or `sessions`.
        sustainable: sessions per second of one replica.
        cached_share: share of prompt tokens found in the cache there.
        keep_s: how long a past is kept there.
        replicas: for the planned sessions or users; None where neither is stated.
        users: sessions alive at once that one replica is planned to hold.
        session_s: mean seconds of a session then; 0 where no rate keeps the target.
        check: the largest rate of one replica that keeps the target, as simulated; None without a target, and
            where no rate keeps it.
    """

    order: str
    sustainable: float
    cached_share: float
    keep_s: float
    replicas: int | None
    users: int
    session_s: float
    check: SessionCheck | None = None


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What sessions take.

    Attributes:
        source: where they come from.
        traffic: averages over them.
        session_rate: sessions per second to plan for; None where only users or nothing is stated.
        users: sessions alive at once to plan for; None where not stated.
        target_utilization: share of the sustainable rate that a replica is planned to carry; with a
            target, of the largest rate that keeps it.
        target: what turns must keep.
        rates: what one replica sustains, and what changes would buy.
        orders: the plan under each order.
    """

    source: str
    traffic: SessionTraffic
    session_rate: float | None
    users: int | None
    target_utilization: float
    target: LatencyTarget
    rates: SessionRates
    orders: tuple[OrderPlan, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        document = asdict(self)
        document["traffic"] = {
            name: value for name, value in document["traffic"].items() if not name.startswith("_")
        }
        return document


def plan_sessions(
    sessions: Sequence[Session],
    source: str,
    engine: EngineConfig,
    profile: StepTimeProfile,
    *,
    target: LatencyTarget = NO_TARGET,
    session_rate: float | None = None,
    users: int | None = None,
    think_s: float = 0.0,
    target_utilization: float | None = None,
    on_check: OnCheck | None = None,
) -> SessionPlan:
    """Plan for sessions.

    Args:
        sessions: what they are like; their own start times give the rate where none is stated.
        source: their name in the plan.
        engine: options of one replica, which caches prefixes whatever they say.
        profile: its step times.
        target: bounds on the 99th percentile of the time to first token, and on the mean time per output
            token, over turns. With one, replicas and users follow from simulation.
        session_rate: sessions that start per second.
        users: sessions alive at once, each followed by the next after `think_s`.
        think_s: seconds from the end of a session to a user's next one.
        target_utilization: in (0, 1]; None for the share that plans of single requests have.
        on_check: is told every rate that is simulated for a target.

    Raises:
        ValueError: no sessions, or an argument out of range.
    """
    if target_utilization is None:
        target_utilization = UNPROMISED_UTILIZATION if target.is_empty else PROMISED_UTILIZATION
    if not 0.0 < target_utilization <= 1.0:
        raise ValueError(f"target_utilization must be in (0, 1], got {target_utilization}")
    if not 0.0 <= think_s < math.inf:
        raise ValueError(f"think_s must be >= 0 and finite, got {think_s}")
    if session_rate is not None and not 0.0 < session_rate < math.inf:
        raise ValueError(f"session_rate must be > 0 and finite, got {session_rate}")
    if session_rate is None and users is None:
        session_rate = _own_rate(sessions)
    traffic, shape = SessionTraffic.of(sessions), replace(shape_of(engine), max_model_len=None)
    rates = session_rates(traffic, shape, profile)
    step_time = profile.for_engine(shape.max_num_seqs, shape.max_num_batched_tokens).step_s
    replica = SessionReplica(traffic, shape, step_time)
    cached = replace(engine, enable_prefix_caching=True)
    orders = []
    for order, found in (("preempt-evict", rates.own), ("sessions", rates.kept)):
        planned = target_utilization * found.rate
        session_s, check = replica.session_s(found, planned), None
        if not target.is_empty:
            check = largest_rate(
                sessions,
                order,
                cached,
                profile,
                target,
                guess=_GUESS * found.rate,
                session_s=session_s,
                on_check=on_check,
            )
            planned = 0.0 if check is None else target_utilization * check.rate
            session_s = 0.0 if check is None else check.session_s
        held, replicas = 0, None
        if planned > 0.0:
            held = max(int(planned * (session_s + think_s)), 1)
            if users is not None:
                replicas = math.ceil(users / held)
            elif session_rate is not None:
                replicas = max(math.ceil(round(session_rate / planned, 9)), 1)
        orders.append(
            OrderPlan(
                order,
                found.rate,
                found.cached_share,
                found.keep_s,
                replicas,
                held,
                session_s,
                check,
            )
        )
    return SessionPlan(source, traffic, session_rate, users, target_utilization, target, rates, tuple(orders))


def _own_rate(sessions: Sequence[Session]) -> float | None:
    starts = sorted(session.start_s for session in sessions if session.start_s is not None)
    if len(starts) < 2 or starts[-1] <= starts[0]:
        return None
    return (len(starts) - 1) / (starts[-1] - starts[0])


def session_plan_text(plan: SessionPlan) -> str:
    """Return the plan as lines of text."""
    traffic, rates = plan.traffic, plan.rates
    asked = ""
    if plan.users is not None:
        asked = f", {plan.users:,} users at once"
    elif plan.session_rate is not None:
        asked = f", {rate(plan.session_rate)} sessions/s"
    whole = traffic.new_tokens + traffic.past_tokens
    lines = [
        f"{plan.source}: {traffic.turns:.1f} turns a session, {traffic.gaps_s:.0f} s of gaps, "
        f"{traffic.new_tokens:,.0f} new and {traffic.past_tokens:,.0f} repeated prompt tokens{asked}",
        f"repeated               {percent(traffic.past_tokens / whole)} of all prompt tokens; "
        f"{rates.resident_sessions:.0f} mean contexts fit into memory",
        "",
        f"{'one replica sustains':<32} {'engine order':>14} {'sessions':>14}",
    ]
    own, kept = plan.orders
    rows = [
        ("sessions/s", rate(own.sustainable), rate(kept.sustainable)),
        ("prompt tokens from the cache", percent(own.cached_share), percent(kept.cached_share)),
        ("a past is kept for", seconds(own.keep_s), seconds(kept.keep_s)),
    ]
    of_it = f"at {percent(plan.target_utilization)} of it"
    if not plan.target.is_empty:
        checks = [order.check for order in plan.orders]
        shown: tuple[tuple[str, Callable[[SessionCheck], str]], ...] = (
            ("within the target, simulated", lambda check: rate(check.rate)),
            ("  first token p99", lambda check: seconds(check.ttft_p99_s)),
            ("  ms a token", lambda check: f"{1e3 * check.tpot_s:.1f}"),
        )
        for name, show in shown:
            first, second = ("none" if check is None else show(check) for check in checks)
            rows.append((name, first, second))
    first, second = ("-" if order.users == 0 else seconds(order.session_s) for order in plan.orders)
    rows += [
        (f"users {of_it}", f"{own.users:,}", f"{kept.users:,}"),
        ("a session then takes", first, second),
    ]
    if plan.users is not None or plan.session_rate is not None:
        first, second = ("none" if order.replicas is None else str(order.replicas) for order in plan.orders)
        rows.append(("replicas", first, second))
    lines += [f"  {name:<30} {first:>14} {second:>14}" for name, first, second in rows]
    lines += [
        f"  {'once every past is lost':<30} {rate(rates.collapsed):>14}",
        f"  {'were memory endless':<30} {rate(rates.all_cached):>14}",
        "",
        "what more would gain (sessions/s)",
    ]
    lines += [f"  {o.name:<52} {rate(o.own):>10} {rate(o.kept):>10}" for o in rates.options]
    return "\n".join(lines)
