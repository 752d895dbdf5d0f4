"""What a controller counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class ControlCounters:
    """What the controller saw and did since it was made; integers that only grow."""

    arrivals: int = 0
    admissions: int = 0
    completions: int = 0
    aborts: int = 0
    steps: int = 0
    scheduled_tokens: int = 0
    recomputed_tokens: int = 0
    pressured_steps: int = 0
    decisions: int = 0
    overrides: int = 0
    abstentions: int = 0
    all_capped: int = 0
    gate_refusals: int = 0
    preemptions_by_policy: int = 0
    preemptions_by_engine: int = 0
    blocks_freed: int = 0
    tokens_lost: int = 0
    failures: int = 0
    kill_switch_activations: int = 0
    turns: int = 0
    sessions_ended: int = 0
    session_drops: int = 0
    session_blocks_dropped: int = 0
    session_failures: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name."""
        return asdict(self)
