"""Sessions written and read again are equal, in every format that holds them."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads import available_session_workloads, generate_sessions
from bidkv.workloads.traces import SESSION_FORMATS, TraceError, read_sessions, write_sessions

DATA = Path(__file__).parents[1] / "data" / "traces"
FILES = {"mooncake-sessions": "aiperf.jsonl", "bailian": "bailian.jsonl", "tracelab": "tracelab.jsonl"}


@pytest.mark.parametrize("name", available_session_workloads())
def test_every_generated_session_comes_back_equal(tmp_path: Path, name: str) -> None:
    sessions = list(generate_sessions(name, n=80, seed=1))
    path = tmp_path / "sessions.jsonl"
    assert write_sessions(sessions, path) == sum(len(s.turns) for s in sessions)
    assert read_sessions(path) == sessions


@pytest.mark.parametrize("trace_format", SESSION_FORMATS)
def test_what_was_read_is_written_and_read_again_equal(tmp_path: Path, trace_format: str) -> None:
    sessions = read_sessions(DATA / FILES[trace_format])
    path = tmp_path / "again.jsonl"
    write_sessions(sessions, path, trace_format)
    again = read_sessions(path)
    if trace_format == "bailian":  # whose requests are numbered anew
        assert [(s.turns, s.start_s) for s in again] == [(s.turns, s.start_s) for s in sessions]
    else:
        assert again == sessions


def test_aiperf_wants_ids_for_all_new_tokens(tmp_path: Path) -> None:
    """Its reader computes the last chunk as input_length - 512 * (ids - 1), which must be 1 to 512."""
    session = Session(
        "s", (Turn(1100, 5, hash_ids=(0, 1)), Turn(30, 5, 1.5), Turn(600, 5, 0.25, hash_ids=(9,)))
    )
    path = tmp_path / "sessions.jsonl"
    write_sessions([session], path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {
        "session_id": "s",
        "input_length": 1100,
        "output_length": 5,
        "hash_ids": [0, 1, 10],
    }
    assert rows[1] == {"session_id": "s", "input_length": 30, "output_length": 5, "delay": 1500}
    assert rows[2]["hash_ids"] == [9, 11]
    for row in rows:
        if "hash_ids" in row:
            assert 1 <= row["input_length"] - 512 * (len(row["hash_ids"]) - 1) <= 512
    completed = read_sessions(path)
    write_sessions(completed, path)
    assert read_sessions(path) == completed


def test_what_is_written_for_aiperf_is_what_its_reader_was_shown(tmp_path: Path) -> None:
    """AIPerf 0.13's MooncakeTrace model and loader take this file, and 1,214 generated turns beside it."""
    sessions = [
        Session(
            "s0",
            (
                Turn(1100, 5, hash_ids=(0, 1, 2)),
                Turn(30, 7, 1.5, "tool", max_tokens=64),
                Turn(600, 9, 60.25, "human", hash_ids=(3, 4), kept_tokens=512),
            ),
            2.5,
            "team",
            -1,
            2.0,
        ),
        Session("s1", (Turn(7, 3),)),
    ]
    path = tmp_path / "sessions.jsonl"
    write_sessions(sessions, path)
    assert path.read_text() == (DATA / "written.jsonl").read_text()
    assert read_sessions(DATA / "written.jsonl") == sessions


turns = st.builds(
    Turn,
    st.integers(1, 3000),
    st.integers(1, 500),
    st.integers(0, 10**7).map(lambda ms: ms / 1000),
    st.sampled_from(["", "tool", "human"]),
    max_tokens=st.none() | st.integers(1, 1000),
)


@st.composite
def sessions(draw: st.DrawFn) -> list[Session]:
    made = []
    for index in range(draw(st.integers(1, 4))):
        first, *rest = draw(st.lists(turns, min_size=1, max_size=5))
        kept: list[Turn] = [Turn(first.new_tokens, first.output_tokens, max_tokens=first.max_tokens)]
        context = first.new_tokens + first.output_tokens
        for turn in rest:
            keep = draw(st.none() | st.integers(0, context))
            kept.append(
                Turn(
                    turn.new_tokens, turn.output_tokens, turn.gap_s, turn.gap_kind, (), turn.max_tokens, keep
                )
            )
            context = (context if keep is None else keep) + turn.new_tokens + turn.output_tokens
        start_s = draw(st.none() | st.integers(0, 10**9).map(lambda ms: ms / 1000))
        made.append(
            Session(
                f"s{index}",
                tuple(kept),
                start_s,
                draw(st.sampled_from(["", "a"])),
                draw(st.integers(-3, 3)),
                draw(st.sampled_from([1.0, 0.5])),
                512,
            )
        )
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sessions=sessions())
def test_any_sessions_come_back_equal(tmp_path: Path, sessions: list[Session]) -> None:
    path = tmp_path / "sessions.jsonl"
    write_sessions(sessions, path)
    assert read_sessions(path) == sessions


@pytest.mark.parametrize("trace_format", SESSION_FORMATS)
def test_what_cannot_be_written_is_said(tmp_path: Path, trace_format: str) -> None:
    path = tmp_path / "none"
    with pytest.raises(ValueError, match="expected at least one session"):
        write_sessions([], path, trace_format)
    with pytest.raises(ValueError, match="expected one of mooncake-sessions, bailian, tracelab"):
        write_sessions([], path, "csv")
    unstarted = [Session("s", (Turn(5, 5),))]
    if trace_format != "mooncake-sessions":
        with pytest.raises(ValueError, match="expected a start time for session 's'"):
            write_sessions(unstarted, path, trace_format)
    sizes = [Session("a", (Turn(5, 5),)), Session("b", (Turn(5, 5),), chunk_tokens=16)]
    with pytest.raises(ValueError, match="expected"):
        write_sessions(sizes, path, trace_format)
    assert not path.exists()


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([{"session_id": "s", "input_length": 5}], "line 1, field 'output_length': expected a whole number"),
        (
            [{"session_id": "", "input_length": 5, "output_length": 1}],
            "field 'session_id': expected printable",
        ),
        ([{"session_id": "s", "input_length": 5, "output_length": 1}] * 2, "line 2, field 'delay': expected"),
        (
            [{"session_id": "s", "input_length": 5, "output_length": 1, "hash_ids": [1, 2]}],
            "field 'hash_ids': expected at most 1 ids",
        ),
        (
            [
                {"session_id": "s", "input_length": 5, "output_length": 1},
                {"session_id": "s", "input_length": 5, "output_length": 1, "delay": 1, "kept_tokens": 7},
            ],
            "line 2, field 'kept_tokens': expected at most the 6 tokens",
        ),
        (
            [
                {"session_id": "s", "input_length": 5, "output_length": 1, "timestamp": 9},
                {"session_id": "s", "input_length": 5, "output_length": 1, "timestamp": 8},
            ],
            "line 2, field 'timestamp': expected a time from the previous turn's on",
        ),
    ],
)
def test_broken_sessions_name_line_and_field(tmp_path: Path, rows: list[object], part: str) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TraceError, match=part):
        read_sessions(path)
