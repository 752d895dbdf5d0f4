from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.calibration.step_columns import RECORDED_COLUMNS
from bidkv.gpu_host.calibration_grid import GridCell, Injection, full_grid, small_grid
from bidkv.gpu_host.calibration_run import read_recorded_cells


def test_the_grid_is_the_same_for_a_seed_and_numbers_its_cells() -> None:
    grid = full_grid((2048, 512), passes=2, seed=3)
    assert grid == full_grid((2048, 512), passes=2, seed=3)
    assert sorted(cell.number for cell in grid) == list(range(len(grid)))
    assert {cell.chunk for cell in grid} == {2048, 512}
    # Shuffled: an early end leaves both chunk sizes and both kinds of cells.
    begin = grid[: len(grid) // 4]
    assert {cell.chunk for cell in begin} == {2048, 512}
    assert {bool(cell.injections) for cell in begin} == {True, False}


def test_the_grid_fits_a_data_center_gpu() -> None:
    for cell in full_grid((2048, 512), passes=1, seed=0):
        injected = max((each.prompts for each in cell.injections), default=0)
        assert cell.requests + injected <= 256
        assert cell.longest_request < 32_768
        assert cell.peak_tokens < 300_000


def test_the_grid_covers_what_the_recorded_steps_leave_open() -> None:
    grid = full_grid((2048,), passes=1, seed=0)
    mixed = {
        each.prompts * each.prompt_tokens + cell.requests
        for cell in grid
        for each in cell.injections
        if cell.requests
    }
    for low, high in ((1, 64), (65, 256), (257, 512), (513, 1024), (1025, 2047)):
        assert len([tokens for tokens in mixed if low <= tokens <= high]) >= 10
    assert max(each.prompt_tokens for cell in grid for each in cell.injections) > 20_000


def test_decoding_requests_outlive_every_injection() -> None:
    # 100 requests leave 412 of 512 tokens to prompts: 3 x 700 tokens take 6 steps, and one in between.
    cell = GridCell(0, 100, 40, 512, (Injection(3, 700), Injection(1, 8)))
    prefill_steps = -(-100 * 45 // 412) + 1
    assert cell.output_tokens == prefill_steps + (2 + 6) + (2 + 1)


def test_a_log_to_go_on_with_is_checked(tmp_path: Path) -> None:
    log = tmp_path / "steps.csv"
    assert read_recorded_cells(log) == set()
    log.write_text(",".join(RECORDED_COLUMNS) + "\n" + "\n".join(f"{cell}" + ",0" * 13 for cell in (4, 4, 9)))
    assert read_recorded_cells(log) == {4, 9}
    log.write_text("step_s,tokens\n0.1,3\n")
    with pytest.raises(
        ValueError, match=r"steps\.csv, line 1: expected the columns cell,conc,plen,chunk,step_s"
    ):
        read_recorded_cells(log)


def test_the_small_grid_is_small() -> None:
    assert sum(cell.requests for cell in small_grid((64,), 1, 0)) < 20
