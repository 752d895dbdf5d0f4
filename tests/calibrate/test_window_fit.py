"""Profiles from runs without a step log: known step times come back, the packaged fit stays what it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bidkv.calibration.replay_plan import TIMELINE_EVERY, make_run_requests, read_runs
from bidkv.calibration.run_windows import run_windows
from bidkv.calibration.window_fit import fit_windows, main
from bidkv.policy import resolve
from bidkv.profiles import CostLine, Regime, StepTimeProfile, load_profile
from bidkv.results import RunResult
from bidkv.results.codec import decode, encode
from bidkv.simulator import EngineConfig, simulate

PAIRS = Path(__file__).parents[1] / "data" / "h100" / "pairs"
SPEC = {
    "name": "made-up",
    "family": "mixed",
    "n": 60,
    "rate_rps": 6.0,
    "seed": 3,
    "policy": "preempt-evict",
    "blocks": 600,
    "chunk": 2048,
    "max_num_seqs": 32,
}
TRUTH = StepTimeProfile(
    name="truth",
    kind="fitted",
    decode=Regime(CostLine(), CostLine(base_s=0.006, per_token_s=2e-5, per_context_token_s=5e-8)),
    graph=Regime(CostLine(base_s=0.007), gpu := CostLine(0.003, 2e-5, 2e-5, 5e-8, 8e-10)),
    eager=Regime(CostLine(base_s=0.015), gpu),
    empty_step_s=0.0005,
)


def _recorded(lagging: bool) -> tuple[dict[str, object], RunResult]:
    """A simulated run, thinned to what a real one keeps of its timeline."""
    spec = SPEC | {"async_scheduling": lagging}
    engine = EngineConfig(600, max_num_seqs=32, max_num_batched_tokens=2048, async_scheduling=lagging)
    run = simulate(make_run_requests(spec), resolve("preempt-evict"), engine, TRUTH, timeline_points=10**6)
    return spec, replace(run, timeline=run.timeline[::TIMELINE_EVERY])


def _wrong() -> StepTimeProfile:
    """TRUTH, every part of it off by a third or more."""

    def off(regime: Regime, host: float, gpu: float) -> Regime:
        parts = ((host, regime.host), (gpu, regime.gpu))
        return Regime(*(CostLine(*(factor * value for value in line.as_tuple())) for factor, line in parts))

    decode_, graph, eager = off(TRUTH.decode, 1, 1.35), off(TRUTH.graph, 1.5, 1.5), off(TRUTH.eager, 1.4, 1.4)
    return replace(TRUTH, decode=decode_, graph=graph, eager=eager)


@pytest.mark.parametrize("lagging", [False, True])
def test_by_the_recorded_clock_the_batches_come_back_whatever_the_profile_says(lagging: bool) -> None:
    spec, real = _recorded(lagging)
    windows, count = run_windows(spec, real, TRUTH)
    assert len(windows) == count > 40
    timed = TRUTH.for_engine(32, 2048)
    for window in windows:
        assert len(window.batches) == TIMELINE_EVERY
        took_s = sum(timed.step_s(*row) for row in window.batches.astype(int).tolist())
        assert took_s == pytest.approx(window.duration_s, rel=1e-4)
    again, _ = run_windows(spec, real, _wrong())
    assert len(again) > 0.9 * count


@pytest.mark.parametrize("lagging", [False, True])
def test_a_wrong_profile_is_fitted_to_what_the_run_took(lagging: bool) -> None:
    spec, real = _recorded(lagging)
    profile = _wrong()
    for _ in range(2):
        profile, error = fit_windows(run_windows(spec, real, profile)[0], profile)
    assert error.absolute < 0.01
    for batch in [(0, 0.0, 4, 3000, 0), (0, 0.0, 20, 9000, 0)]:
        assert profile.step_s(*batch) == pytest.approx(TRUTH.step_s(*batch), rel=0.02)


def test_the_packaged_profile_is_a_fit_of_the_recorded_runs() -> None:
    shipped = load_profile("h100-llama3.1-8b-async")
    windows = []
    for name in ("sharegpt-8192/M-sharegpt-preempt-evict-2", "mixed-600/T-mixed-preempt-evict-2"):
        folder, _, name = name.partition("/")
        spec = next(spec for spec in read_runs(PAIRS / folder / "plan.json") if spec["name"] == name)
        found, count = run_windows(spec, decode((PAIRS / folder / f"{name}.json").read_text(), name), shipped)
        assert len(found) > 0.5 * count
        windows += found
    refitted, error = fit_windows(windows, shipped)
    assert error.absolute < 0.02
    decodes = [(0, 0.0, 1, 2000, 0), (0, 0.0, 24, 9000, 0), (0, 0.0, 100, 80_000, 0)]
    for batch in [*decodes, (1500, 1.2e6, 20, 9000, 1)]:
        assert refitted.step_s(*batch) == pytest.approx(shipped.step_s(*batch), rel=0.04)


def test_no_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected at least one window"):
        fit_windows([], TRUTH)


def test_the_command_writes_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, real = _recorded(lagging=True)
    (tmp_path / "plan.json").write_text(json.dumps([spec, SPEC | {"name": "other", "policy": "fair"}]))
    (tmp_path / "made-up.json").write_text(encode(real))
    out = tmp_path / "made.json"
    arguments = [
        "--runs",
        str(tmp_path),
        "--start",
        "h100-llama3.1-8b-async",
        "--name",
        "made",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    assert "round 3: 1 runs, batches known in " in capsys.readouterr().out
    made = load_profile(str(out))
    assert made.name == "made"
    for batch in [(0, 0.0, 4, 2000), (0, 0.0, 20, 9000)]:
        assert made.step_s(*batch) == pytest.approx(TRUTH.step_s(*batch), rel=0.05)
    (tmp_path / "made-up.json").unlink()
    assert main(arguments) == 2
    assert "made-up.json" in capsys.readouterr().err
