"""The step-log recorder on a real vLLM engine (tiny model, CPU)."""

from __future__ import annotations

import csv
import time
from itertools import pairwise
from pathlib import Path

import pytest
from tests.engine_model import write_config

from bidkv.gpu_host.calibration_grid import GridCell, Injection, small_grid
from bidkv.gpu_host.calibration_recorder import OutOfTime, Recorder
from bidkv.gpu_host.calibration_run import find_misfit, record_grid
from bidkv.gpu_host.engine import build_engine, describe_engine

pytestmark = pytest.mark.vllm

ENGINE_ARGS = {
    "dtype": "float32",
    "block_size": 32,
    "max_model_len": 4096,
    "num_gpu_blocks_override": 160,
    "gpu_memory_utilization": 0.3,
}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    model = write_config(tmp_path_factory.mktemp("model"))
    engine = build_engine(str(model), 16, 128, ENGINE_ARGS)
    return Recorder(engine, time.perf_counter, time.perf_counter() + 250.0, seed=1)


def test_injected_prompts_make_mixed_steps_of_known_composition(recorder: Recorder) -> None:
    rows = recorder.record(GridCell(7, 3, 40, 64, (Injection(1, 30), Injection(2, 20), Injection(1, 150))))
    steady = next(i for i, row in enumerate(rows) if not row["prefill"] and row["decode"] == 3)
    batches = [(row["prefill"], row["num_prefills"], row["prefill_attention"]) for row in rows[steady + 1 :]]
    assert batches == [
        (30, 1, 450.0),
        (0, 0, 0.0),
        (40, 2, 400.0),
        (0, 0, 0.0),
        # 150 tokens under a budget of 64, of which 3 go to the decodes.
        (61, 1, 61 * 30.5),
        (61, 1, 61 * (61 + 30.5)),
        (28, 1, 28 * (122 + 14.0)),
        (0, 0, 0.0),
    ]
    assert all(row["decode"] == 3 and row["running"] >= 3 for row in rows[steady:])
    assert all(row["tokens"] == row["prefill"] + row["decode"] <= 64 for row in rows)
    assert all(row["step_s"] > 0 for row in rows)


def test_a_staircase_passes_every_batch_size(recorder: Recorder) -> None:
    rows = recorder.record(GridCell(8, 6, 40, 128))
    sizes = [row["decode"] for row in rows if not row["prefill"]]
    assert set(sizes) == {1, 2, 3, 4, 5, 6}
    assert sizes == sorted(sizes, reverse=True)
    # Between two steps of the same batch the context grows by one token a request.
    decodes = [(row["decode"], row["context"]) for row in rows if not row["prefill"]]
    grown = [(n, after - before) for (n, before), (m, after) in pairwise(decodes) if n == m]
    assert len(grown) >= 6
    assert all(size == growth for size, growth in grown)


def test_a_grid_is_recorded_once_and_gone_on_with(recorder: Recorder, tmp_path: Path) -> None:
    log, cells, said = tmp_path / "steps.csv", small_grid((128, 64), 1, 0), []
    assert record_grid(recorder, cells[:2], log, said.append) == 0
    first = log.read_text()
    assert record_grid(recorder, cells, log, said.append) == 0
    assert log.read_text().startswith(first)
    with log.open(newline="") as file:
        recorded = [int(row["cell"]) for row in csv.DictReader(file)]
    assert set(recorded) == {cell.number for cell in cells}
    assert len(said) == len(cells)


def test_out_of_time_leaves_the_engine_idle(recorder: Recorder) -> None:
    deadline_s, recorder._deadline_s = recorder._deadline_s, 0.0
    with pytest.raises(OutOfTime):
        recorder.record(GridCell(9, 4, 40, 64))
    recorder._deadline_s = deadline_s
    assert not recorder.engine.has_unfinished_requests()
    assert len(recorder.record(GridCell(10, 2, 20, 64))) >= 4


def test_cells_that_the_engine_cannot_run_are_left_out(recorder: Recorder) -> None:
    assert find_misfit(GridCell(0, 4, 40, 64), recorder) == ""
    assert "needs 17 sequences" in find_misfit(GridCell(0, 17, 40, 64), recorder)
    assert "the limit is 4096" in find_misfit(GridCell(0, 0, 0, 64, (Injection(1, 5000),)), recorder)
    assert "KV cache" in find_misfit(GridCell(0, 4, 1500, 64), recorder)
    assert describe_engine(recorder.engine)["num_gpu_blocks"] == 160
