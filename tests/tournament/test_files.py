"""Trace files in a tournament: the rows of a split, replayed or drawn by seed, and what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("joblib", reason="needs the [experiments] extra")

from bidkv.simulator import EngineConfig
from bidkv.tournament.evaluate import play
from bidkv.tournament.files import TraceFile
from bidkv.tournament.plan import TournamentPlan
from bidkv.workloads.families import split_seeds
from bidkv.workloads.traces import TraceError

ENGINE = EngineConfig(num_gpu_blocks=600)
TUNING, HELD_OUT = split_seeds("tuning")[0], split_seeds("held_out")[0]


def timed(path: Path, gaps: list[float]) -> TraceFile:
    """A table of a server's own, whose prompts count up: 10, 11, 12, ..."""
    rows, now = ["when,in,out"], 0.0
    for index, gap in enumerate(gaps):
        rows.append(f"{now},{10 + index},{5 + index % 3}")
        now += gap
    path.write_text("\n".join(rows) + "\n")
    return TraceFile(str(path), {"columns": "time=when,prompt=in,output=out", "time_unit": "s"})


def test_a_seed_replays_its_half_in_its_own_rhythm(tmp_path: Path) -> None:
    file = timed(tmp_path / "log.csv", [1.0, 9.0] * 20)
    for seed, half in ((TUNING, range(10, 30)), (HELD_OUT, range(30, 50))):
        made = file.make(ENGINE, 50, 2.0, seed)
        assert made == file.make(ENGINE, 50, 2.0, seed)
        assert [r.request_id for r in made] == [f"r{k}" for k in range(50)]
        assert made[0].arrival_s == 0.0
        assert made[-1].arrival_s == pytest.approx(49 / 2.0, abs=1e-5)
        assert {r.prompt_tokens for r in made} <= set(half)
        # Up to its end the half is in its own order, and gaps of 1 s and 9 s stay one to nine.
        first = made[0].prompt_tokens
        whole = half[-1] - first + 1
        assert [r.prompt_tokens for r in made[:whole]] == list(range(first, half[-1] + 1))
        gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(made[:whole])]
        if len(gaps) > 1:
            assert max(gaps) / min(gaps) == pytest.approx(9.0, rel=1e-3)
    others = {tuple(r.prompt_tokens for r in file.make(ENGINE, 9, 2.0, seed)) for seed in range(1, 9)}
    assert len(others) > 3


def test_all_requests_may_be_queued(tmp_path: Path) -> None:
    made = timed(tmp_path / "log.csv", [1.0] * 12).make(ENGINE, 30, float("inf"), TUNING)
    assert {r.arrival_s for r in made} == {0.0}


def test_rows_without_times_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{k},3\n" for k in range(1, 101)))
    made = TraceFile(str(path)).make(ENGINE, 200, 4.0, HELD_OUT)
    assert {r.prompt_tokens for r in made} <= set(range(51, 101))
    assert len({r.prompt_tokens for r in made}) > 30
    assert made[-1].arrival_s == pytest.approx(50.0, rel=0.25)


def test_what_does_not_fit_is_left_out_and_counted(tmp_path: Path) -> None:
    file = timed(tmp_path / "log.csv", [1.0] * 40)
    small = EngineConfig(num_gpu_blocks=3, block_size=10)
    rows, unfit = file.fitting(small, TUNING)
    assert (len(rows), unfit.left_out) == (5, 15)
    assert {r.prompt_tokens for r in file.make(small, 25, 1.0, TUNING)} == {r.prompt_tokens for r in rows}
    with pytest.raises(ValueError, match=r"log.csv: expected at least 2 requests .* found 0 of 20"):
        file.fitting(small, HELD_OUT)


def test_files_that_cannot_take_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="20 requests arrive at one instant"):
        timed(tmp_path / "burst.csv", [0.0] * 40).fitting(ENGINE, TUNING)
    sessions = tmp_path / "s.jsonl"
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 9, "output_length": 3},
        {"session_id": "a", "delay": 100, "input_length": 4, "output_length": 3},
    ]
    sessions.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TraceError, match="simulate them as sessions"):
        TraceFile(str(sessions)).make(ENGINE, 5, 1.0, TUNING)


def test_a_plan_takes_files_alone_or_beside_families_and_knows_changed_ones(tmp_path: Path) -> None:
    file = timed(tmp_path / "log.csv", [1.0] * 60)

    def plan_of(one: TraceFile) -> TournamentPlan:
        return TournamentPlan.make(
            ["lcf"], files=[one], sizes=["T"], loads=[1.0], seeds=[TUNING], requests=30
        )

    assert plan_of(file).families == ("log.csv",)
    beside = TournamentPlan.make(["lcf"], families=["mixed"], files=[file])
    assert beside.families == ("mixed", "log.csv")
    with pytest.raises(ValueError, match=r"a family is named twice: log\.csv, log\.csv"):
        TournamentPlan.make(["lcf"], files=[file, file])

    first = play(plan_of(file), output_dir=tmp_path / "scores")
    again = play(plan_of(file), output_dir=tmp_path / "scores")
    assert first.simulated_requests > 0
    assert again.simulated_requests == 0
    assert again.as_dict()["cells"] == first.as_dict()["cells"]
    (tmp_path / "other").mkdir()
    changed = plan_of(timed(tmp_path / "other" / "log.csv", [2.0] * 70))
    assert play(changed, output_dir=tmp_path / "scores").simulated_requests > 0
