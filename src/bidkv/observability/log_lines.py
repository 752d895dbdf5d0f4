"""What a line of a decision log says, as objects; docs/reference/decision-log.md describes every field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Line:
    """What every line says: when, and the engine's state then."""

    time_s: float
    step: int
    free_blocks: int
    running: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Start(Line):
    """The engine; the first line of every file and of every process that writes one."""

    schema: int
    bidkv: str
    unix_s: float | None
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefix_caching: bool
    candidate_fields: list[Any]


@dataclass(frozen=True, slots=True)
class PolicyChange(Line):
    """From here on another policy decides, or the engine alone."""

    policy: str
    rule: str
    active: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running request that could be preempted; a `RequestView` for policies.

    `terms` are the figures the logged policy compared, None where one was not finite.
    """

    request_id: str
    arrival_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_computed_tokens: int
    max_tokens: int | None
    num_preemptions: int
    num_held_blocks: int
    freed_blocks: int
    priority: int
    deadline_s: float | None
    weight: float
    terms: Mapping[str, float | None]
    agent_id: str = ""
    session_id: str = ""
    turn: int = 0
    gap_hint_s: float | None = None
    is_last_turn: bool = False
    num_cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class DecisionLine(Line):
    """One answer to the question which request is preempted."""

    policy: str
    need_blocks: int
    reserve_blocks: int | None
    took_us: float | None
    victim: str | None
    own_choice: str | None
    candidates_total: int
    terms: list[Any]
    candidates: Sequence[Candidate]

    def candidate(self, request_id: str | None) -> Candidate | None:
        """Return the candidate of that id, or None."""
        return next((c for c in self.candidates if c.request_id == request_id), None)

    @property
    def complete(self) -> bool:
        """Whether every candidate is shown."""
        return len(self.candidates) == self.candidates_total


@dataclass(frozen=True, slots=True)
class Admission(Line):
    """A request runs."""

    request_id: str
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Preemption(Line):
    """A request lost its KV memory; `by` is "policy" or "engine"."""

    request_id: str
    by: str
    lost_tokens: int
    recomputed_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Finish(Line):
    """A request left."""

    request_id: str
    arrival_s: float
    completed: bool
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    recomputed_tokens: int


@dataclass(frozen=True, slots=True)
class SessionDrop(Line):
    """An idle session lost the last `dropped_blocks` of its cached blocks; `why` holds the policy's figures
    as text."""

    session_id: str
    turns: int
    idle_s: float
    context_tokens: int
    exclusive_blocks: int
    dropped_blocks: int
    why: str


@dataclass(frozen=True, slots=True)
class SessionTurn(Line):
    """A turn of a session entered for the first time.

    `past_tokens` were computed by earlier turns, `cached_tokens` of the prompt were found in the cache.
    """

    session_id: str
    request_id: str
    turns: int
    waited_s: float
    prompt_tokens: int
    past_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class SessionWait(Line):
    """A turn of a session still waits; `why` is the policy's reason in words."""

    session_id: str
    request_id: str
    waited_s: float
    why: str


KINDS: Mapping[str, type[Line]] = {
    "start": Start,
    "policy": PolicyChange,
    "decision": DecisionLine,
    "admit": Admission,
    "preempt": Preemption,
    "finish": Finish,
    "drop": SessionDrop,
    "turn": SessionTurn,
    "wait": SessionWait,
}
