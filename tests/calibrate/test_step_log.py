from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bidkv.calibration import StepLogError, read_step_log

HEADER = "step_s,tokens,prefill,decode,context"


def _log(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "steps.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("fast,4,0,4,100", "line 3, field 'step_s': expected a number, found 'fast'"),
        ("0.008,4,0,-4,100", "line 3, field 'decode': expected a number from 0 to 1e+15, found '-4'"),
        ("0.008,4.5,0.5,4,100", "line 3, field 'tokens': expected a whole number, found '4.5'"),
        ("0,4,0,4,100", "line 3, field 'step_s': expected seconds above 0, found '0'"),
        ("nan,4,0,4,100", "line 3, field 'step_s': expected a number from 0 to 1e+15, found 'nan'"),
        ("0.008,9,4,4,100", "line 3, field 'tokens': expected prefill + decode = 8, found '9'"),
        ("0.008,4,0,4", "line 3, field 'context': expected a number, found None"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(StepLogError) as caught:
        read_step_log(_log(tmp_path, "0.008,4,0,4,100", row))
    assert message in str(caught.value)


def test_missing_columns_and_an_empty_log_are_named(tmp_path: Path) -> None:
    with pytest.raises(StepLogError, match="line 1: expected the columns decode, context too"):
        read_step_log(_log(tmp_path, header="step_s,tokens,prefill"))
    with pytest.raises(StepLogError, match="expected at least one step, found none"):
        read_step_log(_log(tmp_path))


def test_recorded_chunks_are_taken_as_they_are(tmp_path: Path) -> None:
    header = f"{HEADER},prefill_attention,num_prefills,note"
    log = read_step_log(_log(tmp_path, "0.03,600,600,0,900,270000,2,x", header=header))
    assert log.attention_recorded
    assert log.attention.tolist() == [270000.0]
    assert log.prefills.tolist() == [2]


def test_unrecorded_chunks_of_a_cell_are_rebuilt_in_order_of_entry(tmp_path: Path) -> None:
    # Two prompts of 300 tokens under a budget of 400: 300 + 100 of the second, then its other 200.
    header = f"conc,plen,{HEADER}"
    rows = ["2,300,0.03,400,400,0,400", "2,300,0.02,201,200,1,601", "2,300,0.01,2,0,2,603"]
    log = read_step_log(_log(tmp_path, *rows, header=header))
    assert not log.attention_recorded
    assert log.attention.tolist() == [300 * 150 + 100 * 50, 200 * (100 + 100), 0]


def test_without_cells_a_prefill_is_taken_as_equal_fresh_prompts(tmp_path: Path) -> None:
    header = f"{HEADER},running"
    log = read_step_log(_log(tmp_path, "0.03,403,400,3,900,5", "0.01,5,0,5,905,5", header=header))
    assert log.prefills.tolist() == [2, 0]
    assert log.attention.tolist() == [2 * 200 * 100, 0]


def test_cells_keep_neighboring_steps_together(tmp_path: Path) -> None:
    log = read_step_log(_log(tmp_path, *["0.008,4,0,4,100"] * 250))
    assert np.bincount(log.cell).tolist() == [100, 100, 50]
