"""A server at a glance, as lines of text."""

from __future__ import annotations

from bidkv.observability.samples import Samples

Row = tuple[str, str, str]
"""The name of a line, its text, and its mood: "good", "bad" or ""."""

_BAR = 30
"""Characters of the memory bar."""

THRASHING = 0.3
"""Share of prompt tokens that were cached once and lost above which the prefix cache thrashes: sessions evict
each other's past faster than they come back for it. The alert uses the same figure."""


def rows(now: Samples, before: Samples) -> list[Row]:
    """Return the lines for which there is data."""
    found = [
        *_in_charge(now),
        *_memory(now),
        *_load(now, before),
        *_sessions(now, before),
        *_preemptions(now, before),
        *_decisions(now),
    ]
    return found or [
        ("", "nothing known at these addresses: neither bidkv's, vLLM's nor SGLang's metrics", "bad")
    ]


def _in_charge(now: Samples) -> list[Row]:
    engine = "vLLM" if "vllm:num_requests_running" in now.values else None
    engine = "SGLang" if "sglang:num_running_reqs" in now.values else engine
    found: list[Row] = [] if engine is None else [("engine", engine, "")]
    active = now.get("bidkv_policy_active")
    if active is None:
        return found
    name = now.labels["bidkv_policy_active"].get("policy", "?")
    if active:
        return [*found, ("policy", f"{name} is in charge", "good")]
    why = "kill switch" if now.get("bidkv_killed") else "it failed; the engine's log says how"
    return [*found, ("policy", f"{name} is OFF ({why})", "bad")]


def _memory(now: Samples) -> list[Row]:
    total, free = now.get("bidkv_total_blocks"), now.get("bidkv_free_blocks")
    if total and free is not None:
        used = 1.0 - free / total
        blocks = f" of {total:,.0f} blocks"
    else:
        share = now.get("vllm:kv_cache_usage_perc", "sglang:token_usage")
        if share is None:
            return []
        used, blocks = share, ""
    found: list[Row] = [("KV memory", f"{_bar(used)} {used:.0%}{blocks}", "bad" if used > 0.98 else "")]
    floor, stable = now.get("bidkv_floor_blocks"), now.get("queueing_minimum_stable_blocks")
    if floor is not None:
        also = "" if stable is None else f"; stable floor {stable:,.0f}"
        found.append(("floor", f"{floor:,.0f} blocks kept free at an admission{also}", ""))
    return found


def _load(now: Samples, before: Samples) -> list[Row]:
    found: list[Row] = []
    running = now.get("bidkv_running_requests", "vllm:num_requests_running", "sglang:num_running_reqs")
    waiting = now.get("bidkv_waiting_requests", "vllm:num_requests_waiting", "sglang:num_queue_reqs")
    if running is not None and waiting is not None:
        done = now.rate(before, "bidkv_completions_total", "vllm:request_success_total")
        finished = "" if done is None else f"; {done:.2f} finish a second"
        found.append(("requests", f"{running:,.0f} run, {waiting:,.0f} wait{finished}", ""))
    rho = now.get("queueing_rho")
    if rho is not None:
        arrive, serve = now.get("queueing_lambda") or 0.0, now.get("queueing_mu") or 0.0
        text = f"rho {rho:.2f} = lambda {arrive:.2f}/s / mu {serve:.2f}/s"
        margin = now.get("queueing_stability_margin_pct")
        if margin is not None:
            text += f"; stability margin {margin:+.0f} %"
        found.append(("load", text, "good" if now.get("queueing_is_stable") else "bad"))
    if now.get("bidkv_limit_cycle"):
        found.append(("limit cycle", "requests are preempted and come back in waves", "bad"))
    return found


def _sessions(now: Samples, before: Samples) -> list[Row]:
    if now.get("bidkv_retention_unavailable"):
        text = "the policy keeps sessions, but this engine's cache cannot be told to; its log says why"
        return [("sessions", text, "bad")]
    told, found_turns = now.get("bidkv_turns_told_total"), now.get("bidkv_turns_found_total")
    if told is None or found_turns is None or not told + found_turns:
        return []
    idle, resident, waiting = (
        now.get(f"bidkv_sessions_{state}") or 0.0 for state in ("idle", "resident", "waiting")
    )
    retained = now.get("bidkv_session_blocks_retained") or 0.0
    how = "told by clients" if told >= found_turns else "found by prefix"
    found = [
        (
            "sessions",
            f"{resident:,.0f} resident ({idle:,.0f} idle, {retained:,.0f} blocks), {waiting:,.0f} turns "
            f"wait; {how} ({told:,.0f} told, {found_turns:,.0f} found)",
            "",
        )
    ]
    prompts, hits, lost = (
        now.rate(before, f"bidkv_{name}_tokens_total") for name in ("prompt", "prefix_hit", "lost_prefix")
    )
    if prompts and hits is not None and lost is not None:
        text = (
            f"{min(1.0, hits / prompts):.0%} of prompt tokens hit, {lost / prompts:.0%} cached once and lost"
        )
        found.append(("prefix cache", text, "bad" if lost > THRASHING * prompts else ""))
    drops = now.get("bidkv_session_drops_total")
    if drops:
        price, index = now.get("bidkv_retention_price") or 0.0, now.get("bidkv_retention_index") or 0.0
        gate = "; the gate is shut" if now.get("bidkv_gate_shut") else ""
        text = f"{drops:,.0f} drops of idle sessions; price {price:.3g}/s, lowest index {index:.3g}/s{gate}"
        found.append(("retention", text, ""))
    return found


def _preemptions(now: Samples, before: Samples) -> list[Row]:
    found: list[Row] = []
    ours = now.rate(before, "bidkv_preemptions_by_policy_total")
    own = now.rate(before, "bidkv_preemptions_by_engine_total")
    if ours is not None and own is not None:
        found.append(("preemptions", f"{ours:.2f}/s by the policy, {own:.2f}/s by the engine's own rule", ""))
    else:
        all_of_them = now.rate(before, "vllm:num_preemptions_total", "sglang:num_retracted_requests_total")
        if all_of_them is not None:
            found.append(("preemptions", f"{all_of_them:.2f}/s", ""))
    scheduled, recomputed = now.get("bidkv_scheduled_tokens_total"), now.get("bidkv_recomputed_tokens_total")
    if scheduled and recomputed is not None:
        tax = recomputed / scheduled
        text = f"{tax:.1%} of all tokens so far"
        lately, again = (
            now.rate(before, f"bidkv_{name}_tokens_total") for name in ("scheduled", "recomputed")
        )
        if lately and again is not None:
            text += f", {min(1.0, again / lately):.1%} just now"
        found.append(("recompute tax", text, "bad" if tax > 0.2 else ""))
    return found


def _decisions(now: Samples) -> list[Row]:
    found: list[Row] = []
    count, total = now.get("bidkv_decision_seconds_count"), now.get("bidkv_decision_seconds_sum")
    if count and total is not None:
        high = now.quantile("bidkv_decision_seconds", 0.99) or 0.0
        text = (
            f"{count:,.0f} so far, {total / count * 1e6:.0f} us each on average, p99 <= {high * 1e6:.0f} us"
        )
        found.append(("decisions", text, "bad" if high > 0.01 else ""))
    failures = now.get("bidkv_failures_total")
    if failures is not None:
        switched = now.get("bidkv_kill_switch_activations_total") or 0.0
        text = f"{failures:.0f} fail-overs, kill switch thrown {switched:.0f} times"
        found.append(("failures", text, "bad" if failures else ""))
    return found


def _bar(share: float) -> str:
    full = round(min(1.0, max(0.0, share)) * _BAR)
    return "#" * full + "." * (_BAR - full)
