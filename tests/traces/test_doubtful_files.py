"""Files that are easily misread: other units and sizes of chunks, failures, other separators and quotes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bidkv.workloads.traces import Trace, TraceError, TraceOptions, open_trace

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str) -> Path:
        path = tmp_path / "trace"
        path.write_text(content)
        return path

    return write


def rows(times: list[Any], **more: Any) -> str:
    given = [{"timestamp": t, "input_length": 70, "output_length": 12, **more} for t in times]
    return "\n".join(map(json.dumps, given))


def table(times: list[Any], header: str = "arrived_at,num_prefill_tokens,num_decode_tokens") -> str:
    return header + "\n" + "".join(f"{time},100,10\n" for time in times)


def arrivals(trace: Trace, **options: Any) -> list[float]:
    return [request.arrival_s for request in trace.requests(**options)]


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")], ids=["s", "ms", "us", "ns"]
)
@pytest.mark.parametrize("make", [rows, table])
def test_times_of_our_years_tell_their_unit(
    write: Write, factor: int, unit: str, make: Callable[[list[Any]], str]
) -> None:
    trace = open_trace(write(make([(1_700_000_000 + 2 * k) * factor for k in range(12)])))
    assert arrivals(trace) == [2.0 * k for k in range(12)]
    assert trace.report.time_unit == unit
    assert "from 1970; the first request arrives at 0 s" in trace.report.notes[0]


def test_sessions_at_times_of_our_years_tell_their_unit(write: Write) -> None:
    turns = [
        {"session_id": f"s{k}", "timestamp": 1_700_000_000 + 5 * k, "input_length": 90, "output_length": 8}
        for k in range(4)
    ]
    trace = open_trace(write("\n".join(map(json.dumps, turns))))
    assert [session.start_s for session in trace.sessions()] == [0.0, 5.0, 10.0, 15.0]
    assert trace.report.time_unit == "s"


def test_sessions_that_start_too_fast_are_a_warning(write: Write) -> None:
    turns = [
        {"session_id": f"s{k}", "timestamp": 5.5 * k, "input_length": 90, "output_length": 8}
        for k in range(20)
    ]
    trace = open_trace(write("\n".join(map(json.dumps, turns))))
    trace.sessions()
    assert trace.report.warnings == [
        "20 sessions within 0.104 s, read in milliseconds; if the file counts seconds, state --time-unit s"
    ]


@pytest.mark.parametrize("step", [1.25, 5.0, 30])
def test_slow_seconds_taken_for_milliseconds_are_a_warning(write: Write, step: float) -> None:
    path = write(rows([step * k for k in range(40)]))
    trace = open_trace(path)
    arrivals(trace)
    assert "read in milliseconds; if the file counts seconds, state --time-unit s" in trace.report.warnings[0]
    stated = open_trace(path, options=TraceOptions(time_unit="s"))
    assert arrivals(stated)[-1] == 39 * step
    assert stated.report.warnings == []


@pytest.mark.parametrize(("make", "words"), [(rows, "microseconds"), (table, "milliseconds")])
def test_fine_units_taken_for_coarse_ones_are_a_warning(
    write: Write, make: Callable[[list[Any]], str], words: str
) -> None:
    trace = open_trace(write(make([500_000 * k for k in range(40)])))
    arrivals(trace)
    assert f"if the file counts {words}, state --time-unit" in trace.report.warnings[0]


def test_a_plausible_pace_is_no_warning(write: Write) -> None:
    trace = open_trace(write(rows([400 * k for k in range(40)])))
    arrivals(trace)
    assert trace.report.warnings == []
    stretched = open_trace(write(rows([5 * k for k in range(40)])))
    arrivals(stretched, rate_rps=2.0)
    assert stretched.report.warnings == []


def hashed(size: int, number: int) -> str:
    given = []
    for k in range(number):
        prompt = 2500 + 397 * k % 3000
        ids = list(range(100 * k, 100 * k + -(-prompt // size)))
        given.append({"timestamp": 900 * k, "input_length": prompt, "output_length": 9, "hash_ids": ids})
    return "\n".join(map(json.dumps, given))


@pytest.mark.parametrize(
    ("size", "told"), [(384, "384"), (640, "637 to 640"), (768, "765 to 768"), (1000, "977 to 1002")]
)
def test_sizes_of_chunks_that_are_no_power_of_two_must_be_stated(write: Write, size: int, told: str) -> None:
    path = write(hashed(size, 30))
    with pytest.raises(TraceError, match=f"sizes of {told} fit the rows: state --tokens-per-hash-id"):
        arrivals(open_trace(path))
    stated = open_trace(path, options=TraceOptions(tokens_per_hash_id=size))
    assert len(arrivals(stated)) == 30


@pytest.mark.parametrize("size", [1024, 2048])
def test_large_chunks_in_few_rows_are_a_warning(write: Write, size: int) -> None:
    trace = open_trace(write(hashed(size, 4)))
    arrivals(trace)
    assert (
        "of the prompts; if an id stands for more tokens, state --tokens-per-hash-id"
        in (trace.report.warnings[0])
    )


def test_other_chunks_in_a_bailian_trace_are_told_by_their_number(write: Write) -> None:
    given = [
        {
            "chat_id": k,
            "parent_chat_id": -1,
            "timestamp": 0.5 * k,
            "input_length": 1000 + 37 * k,
            "output_length": 3,
            "hash_ids": list(range(50 * k, 50 * k - (-(1000 + 37 * k) // 64))),
        }
        for k in range(30)
    ]
    trace = open_trace(write("\n".join(map(json.dumps, given))))
    assert {session.chunk_tokens for session in trace.sessions()} == {64}


@pytest.mark.parametrize(
    "content",
    [
        rows([0, 400]) + '\n{"timestamp": 900, "input_length": 7, "output_length": 0}',
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0,70,12\n0.4,70,12\n0.9,7,0\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0,70.0,12.0\n0.4,70.0,12.0\n0.9,7.0,\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,70,12\n2024-05-10 00:00:00.4,70,12\n"
        "2024-05-10 00:00:00.9,7,0\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        '0,"GPT, 4",70,12,82,API log\n0.4,ChatGPT,70,12,82,API log\n0.9,ChatGPT,7,,7,API log\n',
        json.dumps({"input_lens": [70, 70, 7], "output_lens": [12, 12, 0], "start_times": [5.0, 5.4, 6.0]}),
        json.dumps(
            {
                "input_lens": [70, 70, 7],
                "output_lens": [12, 12, 3],
                "start_times": [5.0, 5.4, 6.0],
                "errors": ["", "", "connection reset"],
            }
        ),
        "\n".join(
            json.dumps(
                {
                    "chat_id": k,
                    "parent_chat_id": -1,
                    "timestamp": 0.4 * k,
                    "input_length": 70,
                    "output_length": 12 * (k < 2),
                }
            )
            for k in range(3)
        ),
    ],
    ids=["mooncake", "vidur", "floats", "azure", "burstgpt", "bench", "bench errors", "bailian"],
)
def test_requests_that_failed_are_left_out_and_counted(write: Write, content: str) -> None:
    trace = open_trace(write(content))
    read = [(r.prompt_tokens, r.output_tokens) for r in trace.requests()]
    assert read == [(70, 12), (70, 12)]
    assert trace.report.left_out == {"without an answer, failed or cancelled": 1}


def test_a_column_of_times_that_a_rate_replaces_is_a_warning(write: Write) -> None:
    path = write(table(list(range(9)), "start_time,prompt_tokens,output_tokens"))
    trace = open_trace(path)
    arrivals(trace, rate_rps=2.0)
    assert "column 'start_time' looks like arrivals and is not read" in trace.report.warnings[0]
    falling = open_trace(write(table([3, 2, 1], "start_time,prompt_tokens,output_tokens")))
    arrivals(falling, rate_rps=2.0)
    assert falling.report.warnings == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("timestamp;prompt_tokens;output_tokens\n1;2;3\n", "commas between the cells, not semicolons"),
        ("timestamp\tprompt_tokens\toutput_tokens\n1\t2\t3\n", "commas between the cells, not tabs"),
        ("", "at least one request; the file is empty"),
        ("[]", "at least one request; the file is empty"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens", "at least one request below the header"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n0.5,8,1\n", "--time-unit s or ms states what numbers"),
        (rows([0, 9, 5]), "none before 9 ms (sort them first)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_out(write: Write, content: str, words: str) -> None:
    with pytest.raises(TraceError) as caught:
        arrivals(open_trace(write(content)))
    assert words in str(caught.value)
