"""What a trace holds: span, rate over time, lengths, sessions, shared prefixes and burstiness, streamed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.protocol.texts import plain_number
from bidkv.workloads.spread import Spread

MOST_BINS = 120
"""Bins of the rate over time; their width doubles when a trace outgrows them."""

_FIRST_BIN_S = 1.0
_BARS = " ▁▂▃▄▅▆▇█"


class RateOverTime:
    """Counts arrivals in at most `MOST_BINS` bins, whose width grows with the trace."""

    def __init__(self) -> None:
        self.width_s = _FIRST_BIN_S
        self.counts: list[int] = []

    def add(self, since_start_s: float) -> None:
        """Count an arrival."""
        place = int(since_start_s / self.width_s)
        while place >= MOST_BINS:
            self.width_s *= 2.0
            pairs = range(0, len(self.counts), 2)
            self.counts = [sum(self.counts[pair : pair + 2]) for pair in pairs]
            place = int(since_start_s / self.width_s)
        self.counts += [0] * (place + 1 - len(self.counts))
        self.counts[place] += 1

    @property
    def busiest_rps(self) -> float:
        """Arrivals a second in the busiest bin."""
        return max(self.counts, default=0) / self.width_s

    @property
    def dispersion(self) -> float | None:
        """Variance of the counts over their mean: 1 for a Poisson process, more for bursts and drift."""
        whole = self.counts[:-1]  # the trace ends within the last bin
        if len(whole) < 2:
            return None
        mean = sum(whole) / len(whole)
        return sum((count - mean) ** 2 for count in whole) / (len(whole) - 1) / mean if mean else None

    def draw(self) -> str:
        """Return the rate over time as a line of bars."""
        most = max(self.counts, default=0)
        if not most:
            return ""
        return "".join(_BARS[math.ceil(count / most * (len(_BARS) - 1))] for count in self.counts)


@dataclass(slots=True)
class RequestSummary:
    """What single requests have in common.

    Attributes:
        requests: how many.
        span_s: seconds from the first arrival to the last.
        rate: arrivals over time.
        gaps_s: between neighboring arrivals.
        gap_cv: coefficient of variation of the gaps; 1 for a Poisson process.
        prompts: tokens of prompts.
        outputs: tokens of answers.
        prompt_tokens: of all prompts.
        shared_tokens: prompt tokens whose chunk an earlier prompt had too; what an endless cache would find.
        with_ids: requests with hash ids.
        priorities: distinct priorities.
        with_deadline: requests with a deadline.
        agents: distinct senders.
    """

    requests: int = 0
    span_s: float = 0.0
    rate: RateOverTime = field(default_factory=RateOverTime)
    gaps_s: Spread = field(default_factory=Spread)
    gap_cv: float | None = None
    prompts: Spread = field(default_factory=Spread)
    outputs: Spread = field(default_factory=Spread)
    prompt_tokens: int = 0
    shared_tokens: int = 0
    with_ids: int = 0
    priorities: set[int] = field(default_factory=set)
    with_deadline: int = 0
    agents: set[str] = field(default_factory=set)

    @property
    def rate_rps(self) -> float | None:
        """Mean arrivals a second; None where all arrive at one instant."""
        return (self.requests - 1) / self.span_s if self.span_s > 0.0 else None

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON data."""
        return {
            "requests": self.requests,
            "span_s": self.span_s,
            "rate_rps": self.rate_rps,
            "busiest_rps": self.rate.busiest_rps,
            "bin_s": self.rate.width_s,
            "arrivals_per_bin": list(self.rate.counts),
            "gap_cv": self.gap_cv,
            "dispersion": self.rate.dispersion,
            "prompt_tokens": self.prompts.as_dict(),
            "output_tokens": self.outputs.as_dict(),
            "shared_prefix_share": self.shared_tokens / self.prompt_tokens if self.with_ids else None,
            "priorities": sorted(self.priorities),
            "with_deadline": self.with_deadline,
            "agents": len(self.agents),
        }

    def lines(self) -> list[str]:
        """The summary as text."""
        rate = "all at once" if self.rate_rps is None else f"{plain_number(self.rate_rps, 3)} a second"
        lines = [
            f"requests  {self.requests:,} over {plain_number(self.span_s, 6)} s, {rate}, "
            f"{plain_number(self.rate.busiest_rps, 3)} in the busiest {plain_number(self.rate.width_s, 6)} s",
            f"rate      {self.rate.draw()}",
            f"prompt    {_spread_text(self.prompts)} tokens",
            f"output    {_spread_text(self.outputs)} tokens",
        ]
        if self.gap_cv is not None:
            dispersion = self.rate.dispersion
            more = "" if dispersion is None else f", counts a bin vary {dispersion:.2f} times as Poisson's"
            lines.append(f"bursts    gaps between arrivals have a cv of {self.gap_cv:.2f}{more}")
        if self.with_ids:
            share = self.shared_tokens / self.prompt_tokens
            lines.append(f"prefixes  {share:.1%} of the prompt tokens stand in an earlier prompt too")
        if len(self.priorities) > 1 or self.with_deadline:
            lines.append(
                f"classes   {len(self.priorities)} priorities, {self.with_deadline:,} requests with deadlines"
            )
        if len(self.agents) > 1:
            lines.append(f"agents    {len(self.agents):,}")
        return lines


def summarize_requests(requests: Iterable[WorkloadRequest], tokens_per_hash_id: int = 512) -> RequestSummary:
    """Read requests to their end and return what they have in common.

    Memory grows with the number of distinct hash ids, and with nothing else.
    """
    summary = RequestSummary()
    seen: set[int] = set()
    first_s = last_s = 0.0
    square_total = 0.0
    for request in requests:
        if not summary.requests:
            first_s = last_s = request.arrival_s
        else:
            gap_s = request.arrival_s - last_s
            summary.gaps_s.add(gap_s)
            square_total += gap_s * gap_s
        last_s = request.arrival_s
        summary.requests += 1
        summary.rate.add(last_s - first_s)
        summary.prompts.add(request.prompt_tokens)
        summary.outputs.add(request.output_tokens)
        summary.prompt_tokens += request.prompt_tokens
        summary.priorities.add(request.priority)
        summary.with_deadline += request.deadline_ms is not None
        summary.agents.add(request.agent_id)
        if request.hash_ids:
            summary.with_ids += 1
            shared = _count_seen(request.hash_ids, seen)
            summary.shared_tokens += min(shared * tokens_per_hash_id, request.prompt_tokens)
            seen.update(request.hash_ids)
    summary.span_s = last_s - first_s
    mean = summary.gaps_s.mean
    if summary.gaps_s.count > 1 and mean > 0.0:
        variance = max(square_total / summary.gaps_s.count - mean * mean, 0.0)
        summary.gap_cv = math.sqrt(variance) / mean
    return summary


def _count_seen(ids: Sequence[int], seen: set[int]) -> int:
    for place, chunk in enumerate(ids):
        if chunk not in seen:
            return place
    return len(ids)


@dataclass(slots=True)
class SessionSummary:
    """What sessions have in common.

    Attributes:
        sessions: how many.
        turns: turns of a session.
        first_tokens: tokens of the first prompt.
        new_tokens: tokens that a later turn adds.
        outputs: tokens of an answer.
        contexts: tokens of prompt and answer at a session's largest turn.
        tool_gaps_s: gaps that a tool fills, and gaps of unknown kind.
        human_gaps_s: gaps that a person fills.
        prompt_tokens: of all prompts of all turns.
        past_tokens: of those, in the session's own past.
        shared_tokens: of first prompts, in the first prompt of an earlier session too.
        rewrites: turns whose client rewrote the past.
        starts_s: start times, where sessions have any.
    """

    sessions: int = 0
    turns: Spread = field(default_factory=Spread)
    first_tokens: Spread = field(default_factory=Spread)
    new_tokens: Spread = field(default_factory=Spread)
    outputs: Spread = field(default_factory=Spread)
    contexts: Spread = field(default_factory=Spread)
    tool_gaps_s: Spread = field(default_factory=Spread)
    human_gaps_s: Spread = field(default_factory=Spread)
    prompt_tokens: int = 0
    past_tokens: int = 0
    shared_tokens: int = 0
    rewrites: int = 0
    starts_s: list[float] = field(default_factory=list)

    @property
    def human_share(self) -> float:
        """Share of the gaps that a person fills."""
        gaps = self.tool_gaps_s.count + self.human_gaps_s.count
        return self.human_gaps_s.count / gaps if gaps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON data."""
        return {
            "sessions": self.sessions,
            "turns": int(self.turns.total),
            "turns_per_session": self.turns.as_dict(),
            "first_prompt_tokens": self.first_tokens.as_dict(),
            "new_tokens": self.new_tokens.as_dict(),
            "output_tokens": self.outputs.as_dict(),
            "context_tokens": self.contexts.as_dict(),
            "tool_gap_s": self.tool_gaps_s.as_dict(),
            "human_gap_s": self.human_gaps_s.as_dict(),
            "human_share": self.human_share,
            "own_past_share": self.past_tokens / self.prompt_tokens,
            "shared_prefix_share": self.shared_tokens / self.prompt_tokens,
            "rewrites": self.rewrites,
            "starts_span_s": max(self.starts_s) - min(self.starts_s) if self.starts_s else None,
        }

    def lines(self) -> list[str]:
        """The summary as text."""
        lines = [
            f"sessions  {self.sessions:,} with {int(self.turns.total):,} turns: {_spread_text(self.turns)}",
            f"first     {_spread_text(self.first_tokens)} tokens in the first prompt",
            f"new       {_spread_text(self.new_tokens)} tokens in a later turn",
            f"output    {_spread_text(self.outputs)} tokens",
            f"context   {_spread_text(self.contexts)} tokens at a session's largest turn",
        ]
        if self.tool_gaps_s.count:
            lines.append(f"gaps      {_spread_text(self.tool_gaps_s)} s of tools or unknown")
        if self.human_gaps_s.count:
            lines.append(
                f"gaps      {_spread_text(self.human_gaps_s)} s of people, {self.human_share:.0%} of all gaps"
            )
        lines.append(
            f"prefixes  {self.past_tokens / self.prompt_tokens:.1%} of the prompt tokens are the session's "
            f"own past, {self.shared_tokens / self.prompt_tokens:.1%} stand in an earlier session too"
        )
        if self.rewrites:
            lines.append(f"rewrites  {self.rewrites:,} turns whose client rewrote its past")
        if self.starts_s:
            span_s = max(self.starts_s) - min(self.starts_s)
            lines.append(f"starts    over {plain_number(span_s, 6)} s")
        return lines


def summarize_sessions(sessions: Iterable[Session]) -> SessionSummary:
    """Return what sessions have in common.

    Raises:
        ValueError: no session.
    """
    summary = SessionSummary()
    seen: set[int] = set()
    for session in sessions:
        summary.sessions += 1
        summary.turns.add(len(session.turns))
        if session.start_s is not None:
            summary.starts_s.append(session.start_s)
        largest = 0
        for place, (turn, prompt) in enumerate(zip(session.turns, session.prompt_lengths(), strict=True)):
            summary.outputs.add(turn.output_tokens)
            summary.prompt_tokens += prompt
            summary.past_tokens += prompt - turn.new_tokens
            largest = max(largest, prompt + turn.output_tokens)
            summary.rewrites += turn.kept_tokens is not None
            if place:
                summary.new_tokens.add(turn.new_tokens)
                (summary.human_gaps_s if turn.gap_kind == "human" else summary.tool_gaps_s).add(turn.gap_s)
            else:
                summary.first_tokens.add(turn.new_tokens)
                shared = _count_seen(turn.hash_ids, seen)
                summary.shared_tokens += min(shared * session.chunk_tokens, turn.new_tokens)
                seen.update(turn.hash_ids)
        summary.contexts.add(largest)
    if not summary.sessions:
        raise ValueError("expected at least one session")
    return summary


def _spread_text(spread: Spread) -> str:
    parts = ("p10", "p50", "p90", "p99", "max")
    figures = spread.as_dict()
    quantiles = ", ".join(f"{name} {plain_number(figures[name], 4)}" for name in parts)
    return f"mean {plain_number(figures['mean'], 4)}, {quantiles}"
