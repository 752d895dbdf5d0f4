"""The figures of one run of sessions that a tournament compares."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bidkv.results import RunResult, summarize_sessions


@dataclass(frozen=True, slots=True)
class SessionScore:
    """The figures of one policy on one cell; None where no session, or no turn, completed.

    Attributes:
        completion_mean_s: mean time from a session's start to the last token of its last turn.
        completion_p99_s: its 99th percentile.
        turn_mean_s: mean latency of a turn.
        turn_p99_s: its 99th percentile.
        first_wait_p99_s: 99th percentile of the time to the first token of a session's first turn.
        turns_per_s: completed turns per second.
        completed: completed sessions.
        computed_per_new: computed tokens for each token that completed turns added.
        hit_rate: share of prompt tokens found in the prefix cache.
        lost_share: share of computed tokens whose prefix had been computed for an earlier turn.
        failures: 1 when the policy failed and the engine's own order took over, else 0.
    """

    completion_mean_s: float | None
    completion_p99_s: float | None
    turn_mean_s: float | None
    turn_p99_s: float | None
    first_wait_p99_s: float | None
    turns_per_s: float
    completed: int
    computed_per_new: float | None
    hit_rate: float | None
    lost_share: float | None
    failures: int

    @classmethod
    def from_run(cls, run: RunResult, *, warm_up_s: float = 0.0) -> SessionScore:
        """Derive the figures from a run of sessions.

        Args:
            run: of sessions only.
            warm_up_s: seconds at its start that count in `computed_per_new`, `hit_rate` and `lost_share`
                only.
        """
        figures = summarize_sessions(run.records, run.totals, run.window_s, warm_up_s=warm_up_s)
        assert figures is not None  # every request is a turn
        return cls(
            completion_mean_s=figures["completion_s"]["mean"],
            completion_p99_s=figures["completion_s"]["p99"],
            turn_mean_s=figures["turn_s"]["mean"],
            turn_p99_s=figures["turn_s"]["p99"],
            first_wait_p99_s=figures["first_turn_wait_s"]["p99"],
            turns_per_s=figures["turns_per_s"],
            completed=figures["completed"],
            computed_per_new=figures["computed_per_new_token"],
            hit_rate=figures["prefix_hit_rate"],
            lost_share=figures["lost_prefix_share"],
            failures=int(run.notes["control"]["failures"]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return every figure under its name, ready for JSON."""
        return asdict(self)
