"""What happened to each request, and to the engine over time: every figure is made from these records."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bidkv.results.gaps import TokenGaps


class Outcome(StrEnum):
    """How a request left the engine."""

    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


# Not frozen, like the points below: a simulation makes millions of them, and freezing one triples its cost.
@dataclass(slots=True)
class RequestRecord:
    """One request's life. Times are seconds from the start of the run; None where it never happened.

    `tpot_s` counts from the first to the last token; it is undefined for a single token.

    Attributes:
        session_id: the session it was a turn of; "" for a single request.
        turn: number of the turn in its session, from 0.
        ends_session: whether it was its session's last turn.
        new_tokens: prompt tokens that no earlier turn of its session had; None for a single request.
        cached_tokens: prompt tokens found in the prefix cache when it was first admitted; None when unknown.
    """

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    first_token_s: float | None
    finish_s: float | None
    preemptions: int = 0
    outcome: Outcome = Outcome.COMPLETED
    detail: str = ""
    session_id: str = ""
    turn: int = 0
    ends_session: bool = False
    new_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_token_s is None else self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> float | None:
        """End-to-end latency."""
        return None if self.finish_s is None else self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (last - first) / (tokens - 1)."""
        if self.finish_s is None or self.first_token_s is None or self.output_tokens < 2:
            return None
        return (self.finish_s - self.first_token_s) / (self.output_tokens - 1)


@dataclass(slots=True)
class TimelinePoint:
    """The engine's state from `time_s` on.

    Attributes:
        used_blocks: blocks that requests hold.
        running: requests that run.
        waiting: requests that wait.
        preemptions: so far.
        idle_session_blocks: free blocks that hold the past of a session between two turns; shared ones
            count once.
    """

    time_s: float
    used_blocks: int
    running: int
    waiting: int
    preemptions: int
    idle_session_blocks: int = 0


@dataclass(slots=True)
class EngineTotals:
    """Counters of one run, the same for the simulator and for real engines.

    Attributes:
        steps: engine steps.
        scheduled_tokens: tokens computed, recomputed ones included.
        recomputed_tokens: tokens computed at positions that had been computed before (prefix hits are not).
        preemptions: preemptions of all requests.
        used_block_seconds: integral of used blocks over time.
        usable_blocks: blocks that can be used (null block left out).
        busy_s: seconds from the first arrival to the last finish.
        prompt_tokens_seen: prompt tokens of all requests that were admitted, each counted once; None when
            unknown, as the following ones.
        prefix_hit_tokens: the part of them that was found in the prefix cache at the first admission.
        lost_prefix_tokens: tokens computed although an earlier turn of the session had computed them: their
            blocks had been given to another request. Whole blocks only. Recompute after a preemption is
            counted in `recomputed_tokens` alone.
        token_gaps: times between two tokens of an answer.
    """

    steps: int = 0
    scheduled_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    used_block_seconds: float = 0.0
    usable_blocks: int = 0
    busy_s: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)
    prompt_tokens_seen: int | None = None
    prefix_hit_tokens: int | None = None
    lost_prefix_tokens: int | None = None
    token_gaps: TokenGaps | None = None

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of the prompt tokens that the prefix cache held; None when unknown."""
        if self.prefix_hit_tokens is None or not self.prompt_tokens_seen:
            return None
        return self.prefix_hit_tokens / self.prompt_tokens_seen

    @property
    def lost_prefix_share(self) -> float | None:
        """Share of all computed tokens that are `lost_prefix_tokens`; None when unknown."""
        if self.lost_prefix_tokens is None:
            return None
        return self.lost_prefix_tokens / self.scheduled_tokens if self.scheduled_tokens else 0.0
