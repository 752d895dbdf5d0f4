"""The calibration report: one result, as text for people and as a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bidkv.calibration.errors_by_regime import (
    CandidateError,
    RegimeError,
    cross_validate,
    list_uncovered,
    measure_by_regime,
)
from bidkv.calibration.fitting import CANDIDATES, CHOSEN, Graphs, KnownMinima, find_candidate, fit, predict
from bidkv.calibration.step_log import StepLog
from bidkv.evaluation.tables import aligned_table
from bidkv.profiles import StepTimeProfile, dump_profile


@dataclass(frozen=True)
class Calibration:
    """A fitted profile and what is known of its quality.

    Attributes:
        profile: the fit.
        model: name of the candidate it was fitted with.
        errors: on the steps it was fitted to.
        candidates: every candidate's error on cells it was not fitted to; empty when that was not asked for.
        uncovered: what the profile must extrapolate.
    """

    profile: StepTimeProfile
    model: str
    errors: list[RegimeError]
    candidates: list[CandidateError]
    uncovered: list[str]

    def document(self) -> dict[str, Any]:
        """Return everything but the profile's coefficients as JSON values."""
        return {
            "model": self.model,
            "errors": [_short(asdict(error)) for error in self.errors],
            "cross_validation": [_short(asdict(error)) for error in self.candidates],
            "uncovered": self.uncovered,
        }

    def profile_json(self) -> str:
        """Return the profile's file, with :meth:`document` as its evidence."""
        return dump_profile(self.profile, evidence=self.document())


def calibrate(
    log: StepLog,
    name: str,
    *,
    graphs: Graphs | None = None,
    model: str = CHOSEN,
    notes: str = "",
    compare: bool = True,
) -> Calibration:
    """Fit a profile to a step log.

    Args:
        log: the recorded steps.
        name: what the profile is called.
        graphs: the CUDA graphs of the recorded engine; vLLM's defaults when None.
        model: the candidate to fit.
        notes: where the steps come from; goes into the profile.
        compare: whether to cross-validate every candidate.

    Raises:
        ValueError: an unknown model, or a log without decode steps or without prefill.
    """
    graphs = graphs or Graphs()
    known: KnownMinima = {}
    profile = fit(log, find_candidate(model), name, graphs, notes, known)
    return Calibration(
        profile=profile,
        model=model,
        errors=measure_by_regime(log, predict(profile, log)),
        candidates=[cross_validate(log, each, graphs, known) for each in CANDIDATES] if compare else [],
        uncovered=list_uncovered(log, graphs),
    )


def check(profile: StepTimeProfile, log: StepLog) -> list[RegimeError]:
    """Return the errors of `profile` on steps it was not fitted to, by regime."""
    return measure_by_regime(log, predict(profile, log))


def as_text(calibration: Calibration, log: StepLog) -> str:
    """Return the report of a fit as text.

    Args:
        calibration: the fit.
        log: the steps it was fitted to.
    """
    lines = [f"{calibration.profile.name}: {len(log)} steps of {log.source}, model: {calibration.model}", ""]
    lines += errors_as_text("Error on the steps it was fitted to", calibration.errors)
    if calibration.candidates:
        head = ("Cross-validation, leaving one grid cell out", "decode", "prefill", "cell total")
        rows = [
            (
                f"{'*' if error.model == calibration.model else ' '} {error.model}",
                *(f"{value:.2%}" for value in (error.decode, error.prefill, error.cell_total)),
            )
            for error in calibration.candidates
        ]
        lines += ["", *aligned_table(head, rows)]
    lines += ["", "Not covered by these steps:", *(f"  - {line}" for line in calibration.uncovered)]
    return "\n".join(lines)


def errors_as_text(title: str, errors: Sequence[RegimeError]) -> list[str]:
    """Return a table of errors, as lines of text."""
    head = (title, "steps", "mean ms", "total", "mean", "mean |.|", "p95 |.|")
    rows = [
        (
            error.regime,
            str(error.steps),
            f"{error.mean_ms:.2f}",
            f"{error.total:+.2%}",
            f"{error.signed:+.2%}",
            f"{error.absolute:.2%}",
            f"{error.p95:.2%}",
        )
        for error in errors
    ]
    return aligned_table(head, rows)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    # Four digits say everything, and keep the file the same where the last bits of a sum differ.
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}
