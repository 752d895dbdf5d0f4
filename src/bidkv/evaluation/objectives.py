"""Service-level objectives: which requests attain them, and the rate at which they do."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bidkv.results import Outcome, RequestRecord, RunResult


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request must keep to; None sets no bound.

    Attributes:
        ttft_s: most seconds to the first token.
        tpot_s: most seconds for each token after it, on average.
        e2e_s: most seconds to the last token.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0.0:
                raise ValueError(f"{field.name} must be > 0, got {value}")

    def __str__(self) -> str:
        bounds = ((f.name.removesuffix("_s").upper(), getattr(self, f.name)) for f in fields(self))
        return " and ".join(f"{name} <= {bound:g} s" for name, bound in bounds if bound is not None) or "none"

    def attained(self, record: RequestRecord) -> bool:
        """Tell whether a request kept to all bounds; one that failed, or was never finished, did not."""
        if record.outcome is not Outcome.COMPLETED or record.ttft_s is None or record.e2e_s is None:
            return False
        measured = ((self.ttft_s, record.ttft_s), (self.tpot_s, record.tpot_s), (self.e2e_s, record.e2e_s))
        # A single token has no time per token after the first, and keeps to any bound on it.
        return all(bound is None or value is None or value <= bound for bound, value in measured)


DEFAULT_OBJECTIVE = Objective(ttft_s=2.0, tpot_s=0.1)
"""First token within 2 s, then at least ten tokens a second, about as fast as people read."""


def attainment(run: RunResult, objective: Objective) -> float:
    """Return the share of all requests, failed ones included, that attained the objective."""
    return sum(map(objective.attained, run.records)) / len(run.records) if run.records else 0.0


def goodput_rps(run: RunResult, objective: Objective) -> float:
    """Return the requests a second that attained the objective, over the time of :attr:`RunResult.span_s`."""
    return sum(map(objective.attained, run.records)) / run.span_s if run.span_s > 0.0 else 0.0
