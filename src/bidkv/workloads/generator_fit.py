"""A generator's parameters from a trace, so that more of the same traffic can be made."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.spread import Spread
from bidkv.workloads.trace_summary import summarize_requests, summarize_sessions

_FAR = 0.1
"""Distance of a law to the data from which on a sample of it is told from the data at a glance."""

_LEAST_SIGMA = 0.01


@dataclass(frozen=True, slots=True)
class GeneratorFit:
    """A generated workload that resembles a trace.

    Attributes:
        workload: name of the generator.
        params: its parameters.
        rate_rps: mean arrivals a second of single requests; None for sessions, or where there is none.
        distances: Kolmogorov-Smirnov distance of every fitted law to the data, by what it is a law of.
        notes: what the generator cannot have in common with the trace.
    """

    workload: str
    params: dict[str, float]
    rate_rps: float | None = None
    distances: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def spec(self) -> str:
        """The workload with its parameters, as every command takes it."""
        stated = (
            f"{name}={value}" if isinstance(value, int) else f"{name}={value:.6g}"
            for name, value in self.params.items()
        )
        return f"{self.workload}:{';'.join(stated)}"

    def as_dict(self) -> dict[str, Any]:
        """The fit as JSON data."""
        return {
            "workload": self.spec,
            "generator": self.workload,
            "params": dict(self.params),
            "rate_rps": self.rate_rps,
            "distances": dict(self.distances),
            "notes": list(self.notes),
        }


def fit_requests(requests: Iterable[WorkloadRequest], tokens_per_hash_id: int = 512) -> GeneratorFit:
    """Fit lognormal lengths and Gamma gaps to single requests, for the generator `long_context`.

    Raises:
        ValueError: fewer than two requests.
    """
    summary = summarize_requests(requests, tokens_per_hash_id)
    if summary.requests < 2:
        raise ValueError(f"expected at least 2 requests to fit, found {summary.requests}")
    params = _lognormal("prompt", summary.prompts) | _lognormal("output", summary.outputs)
    params["max_total_tokens"] = max(math.ceil(summary.prompts.largest + summary.outputs.largest), 64)
    if summary.gap_cv is not None:
        params["cv"] = min(max(round(summary.gap_cv, 3), 0.01), 100.0)
    distances = {
        "prompt": summary.prompts.distance_to_lognormal(),
        "output": summary.outputs.distance_to_lognormal(),
    }
    notes = _far_laws(distances)
    if summary.with_ids:
        share = summary.shared_tokens / summary.prompt_tokens
        notes.append(
            f"prompts of this generator share nothing, where {share:.0%} of the trace's tokens are shared"
        )
    return GeneratorFit("long_context", params, summary.rate_rps, distances, notes)


def fit_sessions(sessions: Iterable[Session]) -> GeneratorFit:
    """Fit turns, lengths and gaps of sessions, for the generator `agents`.

    Raises:
        ValueError: no session.
    """
    kept = list(sessions)
    summary = summarize_sessions(kept)
    shared = _shared_tokens(kept)
    longest = math.ceil(summary.contexts.largest)
    params: dict[str, float] = {
        "turns_median": round(max(summary.turns.log_median, 1.0), 3),
        "turns_sigma": _sigma(summary.turns),
        "shared_tokens": shared,
        "group_tokens": 0,
        "groups": 1,
    }
    own = Spread()
    for session in kept:
        own.add(max(session.turns[0].new_tokens - shared, 1))
    params |= _lognormal("first", own) | _lognormal("new", summary.new_tokens)
    params |= _lognormal("output", summary.outputs)
    params |= _gaps("tool_gap", summary.tool_gaps_s) | _gaps("human_gap", summary.human_gaps_s)
    params["human_share"] = round(summary.human_share, 4)
    longest_gap_s = max(summary.tool_gaps_s.largest, summary.human_gaps_s.largest)
    params["max_gap_s"] = max(math.ceil(longest_gap_s), 1)
    params["max_context_tokens"] = max(longest + 1, shared + 1024)
    laws = {
        "turns": summary.turns,
        "first": own,
        "new": summary.new_tokens,
        "output": summary.outputs,
        "tool_gap": summary.tool_gaps_s,
        "human_gap": summary.human_gaps_s,
    }
    distances = {name: law.distance_to_lognormal() for name, law in laws.items() if law.positive > 1}
    notes = _far_laws(distances)
    if summary.rewrites:
        notes.append(f"{summary.rewrites:,} turns rewrite their past, which this fit leaves out")
    return GeneratorFit("agents", params, None, distances, notes)


def _lognormal(name: str, spread: Spread) -> dict[str, float]:
    if not spread.positive:
        return {}
    return {f"{name}_median": round(spread.log_median, 3), f"{name}_sigma": _sigma(spread)}


def _gaps(name: str, spread: Spread) -> dict[str, float]:
    if not spread.positive:
        return {}
    median_s = max(round(spread.log_median, 4), 1e-4)
    return {f"{name}_median_s": median_s, f"{name}_sigma": _sigma(spread)}


def _sigma(spread: Spread) -> float:
    return min(max(round(spread.log_sigma, 4), _LEAST_SIGMA), 5.0)


def _far_laws(distances: dict[str, float]) -> list[str]:
    far = [f"{name} {distance:.2f}" for name, distance in distances.items() if distance > _FAR]
    return [f"far from lognormal (distance above {_FAR:g}): {', '.join(far)}"] if far else []


def _shared_tokens(sessions: list[Session]) -> int:
    """Leading tokens that nearly all first prompts share, in whole chunks of 512."""
    first = [session.turns[0].hash_ids for session in sessions if session.turns[0].hash_ids]
    if len(first) < max(2, len(sessions) // 2):
        return 0
    common = 0
    for ids in zip(*first, strict=False):
        if len(set(ids)) > 1:
            break
        common += 1
    shortest = min(session.turns[0].new_tokens for session in sessions)
    tokens = min(common * sessions[0].chunk_tokens, shortest - 1)
    return tokens // 512 * 512
