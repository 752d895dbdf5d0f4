"""The latency that requests must keep: which requests attain it, and the rate at which they do."""

from __future__ import annotations

from dataclasses import dataclass, fields

from bidkv.results import Outcome, RequestRecord, RunResult


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """Bounds on a request's latency; None sets no bound.

    A comparison of runs counts the requests that keep all bounds (:meth:`is_attained_by`). A capacity plan
    asks the same of the 99th percentile of the time to first token and of the mean time per output token.

    Attributes:
        ttft_s: most seconds to the first token.
        tpot_s: most seconds for each token after it, on average over a request.
        e2e_s: most seconds to the last token.

    Raises:
        ValueError: a bound that is not above 0.
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

    @property
    def is_empty(self) -> bool:
        """Whether nothing is bounded."""
        return self.ttft_s is None and self.tpot_s is None and self.e2e_s is None

    def is_attained_by(self, record: RequestRecord) -> bool:
        """Tell whether a request kept all bounds. A request that failed or never finished did not."""
        if record.outcome is not Outcome.COMPLETED or record.ttft_s is None or record.e2e_s is None:
            return False
        measured = ((self.ttft_s, record.ttft_s), (self.tpot_s, record.tpot_s), (self.e2e_s, record.e2e_s))
        # An answer of a single token has no time per later token; it keeps any bound on it.
        return all(bound is None or value is None or value <= bound for bound, value in measured)


DEFAULT_TARGET = LatencyTarget(ttft_s=2.0, tpot_s=0.1)
"""First token within 2 s, then at least ten tokens a second, about as fast as people read."""

NO_TARGET = LatencyTarget()
"""Nothing is bounded."""


def attainment(run: RunResult, target: LatencyTarget) -> float:
    """Return the share of all requests, failed ones included, that attained the target."""
    return sum(map(target.is_attained_by, run.records)) / len(run.records) if run.records else 0.0


def goodput_rps(run: RunResult, target: LatencyTarget) -> float:
    """Return the requests per second that attained the target, over :attr:`RunResult.span_s`."""
    return sum(map(target.is_attained_by, run.records)) / run.span_s if run.span_s > 0.0 else 0.0
