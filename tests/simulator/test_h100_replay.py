"""The simulator against a recorded run of a real engine on a real GPU, under KV pressure.

Both sides are computed here from the recording: nothing is compared with a number written down.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.calibration.replay_check import FigureComparison, main, read_recording, replay
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig
from bidkv.workloads.traces import TraceError

DATA = Path(__file__).parents[1] / "data" / "h100"
REQUESTS = DATA / "run_compiled.requests.csv"
STEPS = DATA / "run_compiled.steps.csv"


@pytest.fixture(scope="module")
def comparisons() -> dict[str, FigureComparison]:
    engine = EngineConfig(num_gpu_blocks=600, max_num_seqs=32, max_num_batched_tokens=2048)
    rows = replay(read_recording(REQUESTS, STEPS), load_profile("h100-llama3.1-8b"), engine)
    return {row.figure: row for row in rows}


@pytest.mark.parametrize(
    ("figure", "bound"),
    [
        ("throughput, req/s", 0.03),
        ("mean end-to-end latency, s", 0.06),
        ("recompute tax", 0.02),  # points
        ("preemptions", 0.10),
    ],
)
def test_the_replay_is_as_close_as_claimed(
    comparisons: dict[str, FigureComparison], figure: str, bound: float
) -> None:
    row = comparisons[figure]
    assert row.recorded > 0
    assert abs(row.difference) <= bound


def test_the_recording_was_made_under_pressure(comparisons: dict[str, FigureComparison]) -> None:
    # Without preemptions the replay would say nothing about scheduling.
    assert comparisons["preemptions"].recorded > 100
    assert comparisons["recompute tax"].recorded > 0.2


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--requests", str(REQUESTS), "--steps", str(STEPS), "--profile", "h100-llama3.1-8b"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["figure", "recorded", "replayed", "difference"]
    assert [line[:28].strip() for line in lines[1:]] == [
        "throughput, req/s",
        "mean end-to-end latency, s",
        "recompute tax",
        "preemptions",
        "steps",
    ]
    assert "points" in lines[3]


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--requests", str(REQUESTS), "--steps", str(STEPS), "--profile", "h200"]
    assert main(arguments) == 2
    assert "unknown profile 'h200'" in capsys.readouterr().err
    arguments = ["--requests", str(STEPS), "--steps", str(STEPS), "--profile", "h100-llama3.1-8b"]
    assert main(arguments) == 2
    assert "field 'arrival': expected a header with the columns" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("-1,5,5,2", "line 3, field 'arrival': expected seconds >= 0, found '-1'"),
        ("nan,5,5,2", "line 3, field 'arrival': expected seconds >= 0, found 'nan'"),
        ("1,0,5,2", "line 3, field 'prompt': expected a whole number from 1"),
        ("1,5,x,2", "line 3, field 'output': expected a whole number from 1"),
        ("1,5,5,1", "line 3, field 'finish': expected a time after the arrival, found '1'"),
        ("1,5,5", "line 3: expected 4 cells, as the header has"),
    ],
)
def test_a_broken_row_of_requests_is_named(tmp_path: Path, row: str, message: str) -> None:
    file = tmp_path / "requests.csv"
    file.write_text(f"arrival,prompt,output,finish\n0,5,5,1\n{row}\n")
    with pytest.raises(TraceError) as error:
        read_recording(file, STEPS)
    assert message in str(error.value)


def test_a_broken_row_of_steps_is_named(tmp_path: Path) -> None:
    file = tmp_path / "steps.csv"
    file.write_text("tokens,preempted,lost\n5,0,0\n5,-1,0\n")
    with pytest.raises(TraceError, match="line 3, field 'preempted': expected a whole number >= 0"):
        read_recording(REQUESTS, file)
    file.write_text("tokens,preempted,lost\n0,0,0\n")
    with pytest.raises(TraceError, match="field 'tokens': expected at least one scheduled token"):
        read_recording(REQUESTS, file)
