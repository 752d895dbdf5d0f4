"""How far the analytic profile is from the one GPU that was recorded."""

from __future__ import annotations

from pathlib import Path

from bidkv.calibration import check, read_step_log
from bidkv.profiles.analytic import analytic_profile

RECORDED = Path(__file__).parent.parent / "data" / "h100"


def test_the_analytic_h100_is_within_a_sixth_of_the_recorded_one() -> None:
    analytic = analytic_profile("llama-3.1-8b", "h100-sxm")
    grid = {error.regime: error for error in check(analytic, read_step_log(RECORDED / "steps_compiled.csv"))}
    for regime in ("all steps", "pure decode", "pure prefill", "mixed"):
        assert abs(grid[regime].total) < 0.15, regime
    run = check(analytic.for_engine(32, 2048), read_step_log(RECORDED / "run_compiled.steps.csv"))
    assert abs(run[0].total) < 0.10
