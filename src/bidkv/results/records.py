"""What happened to each request, and to the engine over time: the raw material of every figure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """How a request left the engine."""

    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"


# Not frozen, nor are the points below: a simulation makes millions, and freezing triples the price of one.
@dataclass(slots=True)
class RequestRecord:
    """One request's life. Times are seconds from the start of the run; None where it never happened.

    `tpot_s` counts from the first to the last token; it is undefined for a single token.
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
    """The engine's state from `time_s` on: blocks in use, running, waiting, preemptions so far."""

    time_s: float
    used_blocks: int
    running: int
    waiting: int
    preemptions: int


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
    """

    steps: int = 0
    scheduled_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    used_block_seconds: float = 0.0
    usable_blocks: int = 0
    busy_s: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)
