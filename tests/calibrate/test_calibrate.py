from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest

from bidkv.calibration import Graphs, calibrate, check, read_graphs, read_step_log
from bidkv.calibration.fitting import CANDIDATES, CHOSEN, find_candidate, fit, predict
from bidkv.profiles import CostLine, Regime, StepTimeProfile, load_profile, read_profile

RECORDED = Path(__file__).parent.parent / "data" / "h100"
GRAPHS_APART = "max, padded, attention, history, host per decode, graphs apart"
WITH_TRAFFIC = f"{GRAPHS_APART}, median cell"
SHIPPED = [
    ("h100-llama3.1-8b", "steps_compiled.csv", CHOSEN, True),
    ("h100-llama3.1-8b-nocompile", "steps_nocompile.csv", CHOSEN, False),
    ("h100-llama3.1-8b-traffic", "traffic/steps.csv", WITH_TRAFFIC, True),
]


@pytest.mark.parametrize(("name", "file", "model", "prefill_graphs"), SHIPPED)
def test_the_packaged_profiles_are_fits_of_the_recorded_steps(
    name: str, file: str, model: str, prefill_graphs: bool
) -> None:
    shipped = load_profile(name)
    refitted = fit(read_step_log(RECORDED / file), find_candidate(model), name, Graphs(512, prefill_graphs))
    assert refitted.coefficients() == pytest.approx(shipped.coefficients(), rel=1e-5)
    assert refitted.prefill_graphs == shipped.prefill_graphs == prefill_graphs


def test_the_chosen_model_wins_the_cross_validation_or_is_simpler_than_the_winner() -> None:
    log = read_step_log(RECORDED / "steps_compiled.csv")
    errors = calibrate(log, "x").candidates
    assert [error.model for error in errors] == [model.name for model in CANDIDATES]
    chosen = next(error for error in errors if error.model == CHOSEN)
    # A model with more coefficients must win by more than noise, here a tenth of a percent, to be worth them.
    # The level of the median cell is a lower one, which single steps always favor, skewed as they are: whole
    # cells are there to judge it.
    same_level = [error for error in errors if not find_candidate(error.model).median_cell]
    assert len(same_level) == len(errors) - 1
    assert chosen.prefill <= min(error.prefill for error in same_level) + 0.001
    assert chosen.decode <= min(error.decode for error in same_level) + 0.001
    assert chosen.cell_total <= min(error.cell_total for error in errors) + 0.001


def test_a_run_that_was_not_fitted_takes_as_long_as_predicted() -> None:
    held_out = read_step_log(RECORDED / "run_compiled.steps.csv")
    profile = load_profile("h100-llama3.1-8b").for_engine(max_num_seqs=32, max_num_batched_tokens=2048)
    errors = {error.regime: error for error in check(profile, held_out)}
    assert abs(errors["all steps"].total) < 0.01
    assert abs(errors["pure decode"].total) < 0.02
    assert abs(errors["mixed"].total) < 0.06
    # The graphs of an engine with 256 sequences would make the small prefill steps far too fast.
    unaware = {error.regime: error for error in check(load_profile("h100-llama3.1-8b"), held_out)}
    assert unaware["with prefill, 65-256 tokens"].total < -0.3


TRUTH = StepTimeProfile(
    name="truth",
    kind="fitted",
    decode=Regime(CostLine(base_s=0.008), CostLine(base_s=0.006, per_token_s=3e-5, per_context_token_s=5e-8)),
    graph=Regime(CostLine(base_s=0.010), gpu := CostLine(0.003, 2e-5, 2e-5, 5e-8, 8e-10, history_s=0.003)),
    eager=Regime(CostLine(base_s=0.025), gpu),
    empty_step_s=0.0007,
)


def _recording(
    path: Path, outliers: int = 0, truth: StepTimeProfile = TRUTH, slow_cells: tuple[int, ...] = ()
) -> Path:
    """Steps that take what `truth` says; outliers take several times as long, slow cells a third longer."""
    rng = Random(7)
    rows = []
    for cell in range(40):
        for step in range(40):
            prefill = rng.choice([0, 40, 200, 500, 900, 1500, 2000]) if step % 4 == 0 else 0
            decode = rng.randint(0 if prefill else 1, 256)
            context = prefill + decode + rng.randint(0, 60_000) * (decode > 0)
            attention = prefill * (rng.randint(0, 4000) + prefill / 2)
            step_s = truth.step_s(prefill, attention, decode, context, 1) * (
                4 / 3 if cell in slow_cells else 1
            )
            rows.append(
                [cell, step_s, prefill + decode, prefill, decode, context, attention, int(prefill > 0)]
            )
    for row in rng.sample(rows, outliers):
        row[1] *= 6.0
    rows.append([0, 0.0007, 0, 0, 0, 0, 0, 0])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["conc", "step_s", "tokens", "prefill", "decode", "context", "prefill_attention", "num_prefills"]
        )
        writer.writerows(rows)
    return path


def test_known_coefficients_are_found_again(tmp_path: Path) -> None:
    log = read_step_log(_recording(tmp_path / "steps.csv", outliers=0))
    found = fit(log, find_candidate(CHOSEN), "found", Graphs())
    assert found.coefficients() == pytest.approx(TRUTH.coefficients(), rel=1e-4)
    assert found.empty_step_s == 0.0007


def test_a_few_slow_steps_hardly_move_the_fit(tmp_path: Path) -> None:
    log = read_step_log(_recording(tmp_path / "steps.csv", outliers=30))
    found = fit(log, find_candidate(CHOSEN), "found", Graphs())
    for batch in [(0, 0.0, 8, 5000, 0), (0, 0.0, 200, 60_000, 0), (2000, 4e6, 20, 30_000, 1)]:
        assert found.step_s(*batch) == pytest.approx(TRUTH.step_s(*batch), rel=0.02)


def test_graphs_with_a_line_of_their_own_are_found_when_asked_for(tmp_path: Path) -> None:
    graph = replace(TRUTH.graph, gpu=CostLine(0.009, 1e-5, 3e-5, 4e-8, 7e-10, history_s=0.001))
    truth = replace(TRUTH, graph=graph)
    log = read_step_log(_recording(tmp_path / "steps.csv", truth=truth))
    apart = fit(log, find_candidate(GRAPHS_APART), "apart", Graphs())
    together = fit(log, find_candidate(CHOSEN), "together", Graphs())
    small = log.where((log.prefill > 0) & (log.tokens <= 512))
    assert np.abs(predict(apart, small) / small.step_s - 1.0).max() < 1e-3
    assert np.abs(predict(together, small) / small.step_s - 1.0).max() > 0.05


def test_slow_cells_do_not_move_the_level_of_the_median_cell(tmp_path: Path) -> None:
    log = read_step_log(_recording(tmp_path / "steps.csv", slow_cells=tuple(range(8))))
    batches = [(0, 0.0, 8, 5000, 0), (0, 0.0, 200, 60_000, 0), (2000, 4e6, 20, 30_000, 1)]
    typical = fit(log, find_candidate(WITH_TRAFFIC), "typical", Graphs())
    overall = fit(log, find_candidate(GRAPHS_APART), "overall", Graphs())
    for batch in batches:
        assert typical.step_s(*batch) == pytest.approx(TRUTH.step_s(*batch), rel=0.03)
        assert overall.step_s(*batch) > 1.04 * TRUTH.step_s(*batch)


def test_a_log_without_prefill_cannot_be_fitted(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("step_s,tokens,prefill,decode,context\n0.008,4,0,4,100\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected some steps with prefill, found none"):
        fit(read_step_log(path), find_candidate(CHOSEN), "x", Graphs())
    with pytest.raises(ValueError, match="unknown model 'cubic': expected one of sum; max;"):
        find_candidate("cubic")


def test_a_calibration_can_be_written_and_read(tmp_path: Path) -> None:
    log = read_step_log(_recording(tmp_path / "steps.csv", outliers=0))
    result = calibrate(log, "mine", notes="made up", compare=False)
    assert read_profile(result.profile_json(), "mine.json") == result.profile
    evidence = json.loads(result.profile_json())["evidence"]
    assert {error["regime"] for error in evidence["errors"]} >= {"all steps", "pure decode", "mixed"}
    assert all(abs(error["total"]) < 1e-3 for error in evidence["errors"])
    assert any("decode batches of more than 256" in line for line in evidence["uncovered"])


@pytest.mark.parametrize(
    ("mode", "for_prefill"),
    [("FULL_AND_PIECEWISE", True), ("CUDAGraphMode.PIECEWISE", True), ("FULL_DECODE_ONLY", False)],
)
def test_graphs_are_those_the_recorder_noted(tmp_path: Path, mode: str, for_prefill: bool) -> None:
    steps = tmp_path / "steps.csv"
    assert read_graphs(steps) == Graphs(512, True)
    (tmp_path / "steps.meta.json").write_text(json.dumps({"graph_max_tokens": 64, "cudagraph_mode": mode}))
    assert read_graphs(steps) == Graphs(64, for_prefill)
    assert read_graphs(steps, 128, not for_prefill) == Graphs(128, not for_prefill)
    (tmp_path / "steps.meta.json").write_text("{}")
    with pytest.raises(ValueError, match=r"steps\.meta\.json: expected a JSON object with graph_max_tokens"):
        read_graphs(steps)
