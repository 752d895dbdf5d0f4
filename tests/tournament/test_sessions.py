"""A small tournament of sessions: knees, cells in open and closed loop, standings, resuming, the picture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bidkv.evaluation.baseline import ENGINE_ORDERS
from bidkv.profiles import load_profile
from bidkv.protocol.sessions import Session, Turn
from bidkv.simulator import EngineConfig
from bidkv.tournament import BASELINE
from bidkv.tournament.docs import regenerate_section
from bidkv.tournament.knee import find_knee
from bidkv.tournament.session_cells import count_resident
from bidkv.tournament.session_picture import session_rows, write_session_picture
from bidkv.tournament.session_plan import MACHINES, SessionCell, SessionGroup, SessionPlan, make_engine
from bidkv.tournament.session_scores import SessionScore
from bidkv.tournament.session_standings import SessionStandings
from bidkv.tournament.sessions import play_sessions

SMALL: dict[str, Any] = {
    "machines": ["h100-8b"],
    "sizes": ["quarter"],
    "families": ["agents-8-turns"],
    "loads": [0.8, 1.5],
    "levels": [2.0],
    "seeds": [1, 2],
    "open_s": 150.0,
    "closed_s": 50.0,
    "warm_up_s": 10.0,
}


@pytest.fixture(scope="module")
def standings() -> SessionStandings:
    return play_sessions(SessionPlan.make(["fair"], **SMALL))


def test_every_policy_runs_every_cell(standings: SessionStandings) -> None:
    assert [cell[3:] for cell in standings.scores] == [
        (mode, level, seed)
        for mode, level in (("closed", 2.0), ("open", 0.8), ("open", 1.5))
        for seed in (1, 2)
    ]
    for cell, scores in standings.scores.items():
        assert list(scores) == [BASELINE, "fair"]
        for score in scores.values():
            assert score.failures == 0
            assert score.turns_per_s > 0.0
            assert (score.completed > 5) or cell.mode == "closed"
    own = standings.ratio(BASELINE, "completion_mean_s")
    assert own is not None
    assert (own.value, own.low, own.high) == (1.0, 1.0, 1.0)
    group = SessionGroup("h100-8b", "quarter", "agents-8-turns", 1)
    assert set(standings.knees[group]) == {BASELINE}
    assert standings.residents[group] > 5


def test_more_load_takes_longer(standings: SessionStandings) -> None:
    cells = {cell: scores[BASELINE] for cell, scores in standings.scores.items() if cell.mode == "open"}
    for seed in (1, 2):
        low, high = (
            cells[SessionCell("h100-8b", "quarter", "agents-8-turns", "open", load, seed)]
            for load in (0.8, 1.5)
        )
        assert high.turn_mean_s > 1.2 * low.turn_mean_s


def test_a_second_call_runs_only_what_is_missing(standings: SessionStandings, tmp_path: Path) -> None:
    def simulated(policies: list[str], **changes: object) -> int:
        plan = SessionPlan.make(policies, **{**SMALL, **changes})
        return play_sessions(plan, output_dir=tmp_path).simulated_turns

    assert simulated(["fair"]) == standings.simulated_turns
    assert simulated(["fair"]) == 0
    assert simulated(["fair", "lcf"]) == standings.simulated_turns / 2
    assert simulated(["fair"], closed_s=60.0) > 0
    files = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.json")}
    folder = "sessions/h100-8b/quarter"
    assert files == {f"{folder}/agents-8-turns-1.json", f"{folder}/agents-8-turns-2.json"}


def identical_sessions(number: int) -> list[Session]:
    """Sessions of two turns with 1 s between them; nothing is shared."""
    return [
        Session(f"s{index}", (Turn(512, 200), Turn(256, 200, gap_s=1.0, gap_kind="tool")))
        for index in range(number)
    ]


def test_the_knee_is_where_the_machine_is_busy() -> None:
    profile = load_profile("h100-llama3.1-8b")
    # One request at a time: two turns of 200 steps each, so a session takes the engine's whole time.
    engine = EngineConfig(num_gpu_blocks=4000, max_num_seqs=1, enable_prefix_caching=True)
    step_s = profile.for_engine(1, 2048).step_s(0, 0.0, 1, 900)
    knee = find_knee(identical_sessions, BASELINE, engine, profile, window_s=600.0, seed=1)
    assert knee == pytest.approx(1.0 / (400 * step_s), rel=0.2)
    wide = EngineConfig(num_gpu_blocks=4000, max_num_seqs=4, enable_prefix_caching=True)
    assert find_knee(identical_sessions, BASELINE, wide, profile, window_s=600.0, seed=1) > 2.5 * knee


def test_the_resident_number_is_memory_over_the_mean_context() -> None:
    # Contexts of 712 tokens after the first turn, and of 1,168 after the second.
    assert count_resident(identical_sessions(3), 94_000) == 100
    assert count_resident(identical_sessions(3), 10) == 1


def make_score(completion: float | None, turns_per_s: float) -> SessionScore:
    return SessionScore(completion, completion, 5.0, 9.0, 2.0, turns_per_s, 40, 1.5, 0.6, 0.1, 0)


def test_lost_cells_are_those_whose_interval_is_on_the_wrong_side() -> None:
    plan = SessionPlan.make(["fair"], **{**SMALL, "seeds": [1, 2, 3]})
    scores = {}
    for seed in (1, 2, 3):
        place = ("h100-8b", "quarter", "agents-8-turns")
        own, wobble = make_score(100.0, 2.0), 0.001 * seed
        scores[SessionCell(*place, "open", 0.8, seed)] = {
            BASELINE: own,
            "fair": make_score(110.0 + wobble, 1.0),
        }
        scores[SessionCell(*place, "open", 1.5, seed)] = {BASELINE: own, "fair": make_score(50.0, 2.0)}
        scores[SessionCell(*place, "closed", 2.0, seed)] = {
            BASELINE: own,
            "fair": make_score(None, 1.9 + wobble),
        }
    table = SessionStandings(plan, scores)
    assert [(loss.mode, loss.level, loss.metric) for loss in table.losses("fair")] == [
        ("open", 0.8, "completion_mean_s"),
        ("open", 0.8, "completion_p99_s"),
        ("closed", 2.0, "turns_per_s"),
    ]
    assert table.losses(BASELINE) == []
    ratio = table.ratio("fair", "completion_mean_s", mode="open")
    assert ratio is not None
    assert ratio.value == pytest.approx(math.sqrt(1.1 * 0.5), rel=1e-4)
    # A cell in which nothing completed has no ratio, and is no loss of completion time.
    assert table.ratio("fair", "completion_mean_s", mode="closed") is None
    assert len(table.lost_rows(["fair"])) == 3


def test_the_tables_the_json_and_the_docs_hold_the_standings(
    standings: SessionStandings, tmp_path: Path
) -> None:
    text = standings.text()
    assert "h100-8b, open loop, loads 0.8: ratios" in text
    assert "h100-8b, open loop, loads 1.5: ratios" in text
    assert "h100-8b, closed loop, multiples 2" in text
    document = json.loads(json.dumps(standings.as_dict(), allow_nan=False))
    assert document["cells"][0]["scores"]["fair"]["turns_per_s"] > 0.0
    assert document["knees"][0]["rates"][BASELINE] > 0.0
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- sessions: begin -->\nold\n<!-- sessions: end -->\nAfter\n")
    regenerate_section(page, "sessions", standings.markdown("bidkv tournament --sessions"))
    written = page.read_text()
    assert "old" not in written
    assert "Made by `bidkv tournament --sessions`" in written
    assert written.count("| fair |") >= 2


def test_every_family_and_size_has_a_row(standings: SessionStandings) -> None:
    (row,) = standings.family_rows("fair", "open", "h100-8b", [1.5])
    cells = [scores for cell, scores in standings.scores.items() if (cell.mode, cell.level) == ("open", 1.5)]
    own, fair = (
        math.sqrt(math.prod(scores[name].computed_per_new for scores in cells)) for name in (BASELINE, "fair")
    )
    held = sum(standings.residents.values()) / 2
    assert row[:3] == ["agents-8-turns", "quarter", f"{held:.0f}"]
    assert row[3] == str(standings.ratio("fair", "completion_mean_s", mode="open", levels=[1.5]))
    assert row[-1] == f"{fair:.2f} ({own:.2f})"


def test_the_picture_has_a_row_for_every_machine(standings: SessionStandings, tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="needs the [report] extra")
    figures = {(row["figure"], row["level"]) for row in session_rows(standings) if row["policy"] == "fair"}
    assert figures == {
        ("session completion, mean", 0.8),
        ("session completion, mean", 1.5),
        ("session completion, p99", 0.8),
        ("session completion, p99", 1.5),
        ("turns per second", 2.0),
    }
    page = tmp_path / "sessions.html"
    write_session_picture(page, standings)
    assert "<script src=" not in page.read_text()
    with pytest.raises(ValueError, match=r"ends in \.html or \.png"):
        write_session_picture(tmp_path / "sessions.gif", standings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"machines": ["tpu"]}, "machine 'tpu' does not exist. Available: h100-8b"),
        ({"sizes": ["T"]}, "size 'T' does not exist. Available: quarter, half, full"),
        ({"families": ["mixed"]}, "family 'mixed' does not exist. Available: agents-8-turns"),
        ({"loads": [], "levels": []}, "expected at least one load or level"),
        ({"loads": [-1.0]}, "must be positive, got -1.0"),
        ({"levels": [1.0, 1.0]}, "a level is named twice"),
        ({"seeds": []}, "expected at least one seed"),
    ],
)
def test_mistakes_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SessionPlan.make(["fair"], **{**SMALL, **wrong})


def test_every_machine_holds_the_sessions_it_is_judged_with() -> None:
    assert BASELINE in ENGINE_ORDERS
    for machine in MACHINES:
        full, quarter = make_engine(machine, "full"), make_engine(machine, "quarter")
        assert full.num_gpu_blocks // 4 == quarter.num_gpu_blocks
        assert quarter.usable_blocks * quarter.block_size > 32_768
        assert full.async_scheduling
        assert full.enable_prefix_caching


def test_the_warm_up_is_not_measured() -> None:
    def scores(**seconds: float) -> SessionScore:
        plan = SessionPlan.make(["fair"], **{**SMALL, "loads": [], "seeds": [1], **seconds})
        (cell,) = play_sessions(plan).scores.values()
        return cell[BASELINE]

    all_60_s = scores(warm_up_s=0.0, closed_s=60.0)
    first_20_s, last_40_s = scores(warm_up_s=0.0, closed_s=20.0), scores(warm_up_s=20.0, closed_s=40.0)
    turns = [round(score.turns_per_s * s) for score, s in ((all_60_s, 60), (first_20_s, 20), (last_40_s, 40))]
    assert turns[0] == turns[1] + turns[2]
    assert min(turns) > 0
    assert last_40_s.completed <= all_60_s.completed
    assert last_40_s.computed_per_new == all_60_s.computed_per_new
