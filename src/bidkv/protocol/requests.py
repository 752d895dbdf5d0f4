"""What is known of a request: as a workload states it, and as a policy sees it while it lives.

A :class:`WorkloadRequest` is the truth a trace holds (its real output length included). A
:class:`RequestView` is what a scheduling policy may read of a live request: the true output length is
not part of it, so that no policy can cheat by accident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WorkloadRequest:
    """One request of a workload.

    Attributes:
        request_id: unique within its workload.
        arrival_s: seconds since the start of the workload.
        prompt_tokens: prompt length, at least 1.
        output_tokens: tokens that the request generates, at least 1. Hidden from policies.
        max_tokens: the cap its sender stated, or None when a policy can see none.
        priority: vLLM's sign: a lower number is more important.
        deadline_ms: milliseconds from arrival until the answer must be complete, or None.
        weight: relative worth of finishing this request; 1 is ordinary.
        hash_ids: content hashes of the prompt's leading chunks (Mooncake: 512 tokens each);
            equal ids in equal positions mean a shared prefix.
        agent_id: the agent that sent it ("" when unknown).
        session_id: the session it is a turn of ("" for a single request).
        turn: number of the turn in its session, from 0.
        is_last_turn: whether its client said that the session ends with it.
        gap_hint_s: seconds its client expects between its answer and the next turn, or None.
        content: the prompt as segments (content key, tokens), in order, when it is known. Equal leading
            segments are equal tokens: two prompts share the KV of a position exactly when their tokens up to
            it come from equal segments. () leaves content to `hash_ids`.
    """

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int | None = None
    priority: int = 0
    deadline_ms: float | None = None
    weight: float = 1.0
    hash_ids: tuple[int, ...] = ()
    agent_id: str = ""
    session_id: str = ""
    turn: int = 0
    is_last_turn: bool = False
    gap_hint_s: float | None = None
    content: tuple[tuple[int, int], ...] = ()


class RequestView(Protocol):
    """A live request as a policy sees it. Every engine refuses a write to it with an AttributeError.

    Counts are of tokens unless the name says otherwise. Times are seconds on the engine's clock.
    """

    @property
    def request_id(self) -> str:
        """Unique among live requests."""

    @property
    def arrival_s(self) -> float:
        """When it arrived, on the engine's clock."""

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far; they survive a preemption and are recomputed as prefill."""

    @property
    def num_computed_tokens(self) -> int:
        """Positions whose KV is computed and held now; 0 while waiting after a preemption."""

    @property
    def num_cached_tokens(self) -> int:
        """Leading positions the prefix cache held when it entered last; 0 before, or with a KV connector."""

    @property
    def max_tokens(self) -> int | None:
        """The sender's cap on generated tokens, or None when unknown."""

    @property
    def num_preemptions(self) -> int:
        """How often this request was preempted so far."""

    @property
    def num_held_blocks(self) -> int:
        """KV blocks it holds now, shared ones included."""

    @property
    def priority(self) -> int:
        """vLLM's sign: a lower number is more important; 0 when none was given."""

    @property
    def deadline_s(self) -> float | None:
        """Absolute time by which it must be complete, or None."""

    @property
    def weight(self) -> float:
        """Relative worth of finishing it; 1 is ordinary."""

    @property
    def agent_id(self) -> str:
        """Its sender; empty when unknown."""

    @property
    def session_id(self) -> str:
        """The session its client named; empty when it named none."""

    @property
    def turn(self) -> int:
        """Number of the turn in its session, from 0; 0 also when it is unknown."""

    @property
    def gap_hint_s(self) -> float | None:
        """Seconds its client expects between the end of this turn and the next turn, or None."""

    @property
    def is_last_turn(self) -> bool:
        """Whether its client said that no turn follows; False also when it did not know."""
