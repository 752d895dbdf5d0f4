"""How fast traces are read and workloads are made: rows a second, in `extra_info`.

`BIDKV_BENCH_ROWS=1000000` reads a million rows of every format; peak memory is in `extra_info` too.
"""

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from bidkv.workloads import available_session_workloads, available_workloads, generate, generate_sessions
from bidkv.workloads.traces import TraceOptions, open_trace, read_sessions, write_mooncake, write_sessions

ROWS = int(os.environ.get("BIDKV_BENCH_ROWS", "200000"))
"""Rows of every file."""

COLUMNS = {"time": "when", "prompt": "in", "output": "out", "agent": "client"}


def date(row: int) -> str:
    minute, second = divmod(row // 100, 60)
    hour, minute = divmod(minute, 60)
    day, hour = divmod(hour, 24)
    return f"2023-11-{16 + day} {hour:02}:{minute:02}:{second:02}.{row % 100:02}05900"


def lines(kind: str) -> Iterator[str]:
    """The lines of a file of `kind`, its header first."""
    rows = range(ROWS)
    if kind == "azure":
        yield "TIMESTAMP,ContextTokens,GeneratedTokens"
        yield from (f"{date(row)},374,44" for row in rows)
    elif kind == "burstgpt":
        yield "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
        yield from (f"{row / 4},ChatGPT,{row % 900 + 1},{row % 7},9,API log" for row in rows)
    elif kind == "vidur":
        yield "arrived_at,num_prefill_tokens,num_decode_tokens"
        yield from (f"{row / 4},{row % 900 + 1},20" for row in rows)
    elif kind == "lengths":
        yield "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"
        yield from ("74,918,992,0.0806100217864923" for _ in rows)
    elif kind == "columns":
        yield "when,route,in,out,client"
        yield from (f"{date(row)},/v1/chat,{row % 900 + 1},20,alice" for row in rows)
    elif kind == "guidellm":
        yield from (
            json.dumps({"timestamp": row / 4, "prompt_tokens": row % 900 + 1, "output_tokens": 20})
            for row in rows
        )
    elif kind == "dynamo":
        yield from (
            json.dumps({"created_time": row * 250, "input_tokens": row % 900 + 1, "output_tokens": 20})
            for row in rows
        )
    elif kind == "bailian":
        for row in rows:
            given = {"chat_id": row, "parent_chat_id": -1, "timestamp": row / 4, "input_length": 48}
            yield json.dumps({**given, "output_length": 20, "type": "text", "turn": 1, "hash_ids": [1, 2, 3]})


TABLES = ("azure", "burstgpt", "vidur", "lengths", "columns")
OBJECTS = ("mooncake", "guidellm", "dynamo", "bailian")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traces")
    write_mooncake(generate("mixed", n=ROWS, rate_rps=10.0, seed=0), folder / "mooncake")
    return folder


def count_rows(path: Path, kind: str) -> int:
    options = TraceOptions(columns=COLUMNS) if kind == "columns" else TraceOptions()
    trace = open_trace(path, options=options)
    assert trace.format.name == kind
    read = sum(1 for _ in trace.requests(rate_rps=10.0 if kind == "lengths" else None))
    return read + sum(trace.report.left_out.values())


@pytest.mark.parametrize("kind", [*TABLES, *OBJECTS])
def test_reading(benchmark, folder, kind):
    path = folder / kind
    if not path.exists():
        with path.open("w") as file:
            file.writelines(f"{line}\n" for line in lines(kind))
    rows = benchmark.pedantic(lambda: count_rows(path, kind), rounds=3)
    assert rows == ROWS
    benchmark.extra_info["rows_per_s"] = round(ROWS / benchmark.stats.stats.min)
    tracemalloc.start()
    count_rows(path, kind)
    benchmark.extra_info["peak_mb"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 2)
    tracemalloc.stop()
    path.unlink()


def test_reading_sessions(benchmark, tmp_path):
    path = tmp_path / "sessions"
    turns = write_sessions(generate_sessions("agents", n=5000, seed=0), path)
    sessions = benchmark.pedantic(lambda: read_sessions(path), rounds=3)
    assert sum(len(s.turns) for s in sessions) == turns
    benchmark.extra_info["turns_per_s"] = round(turns / benchmark.stats.stats.min)


@pytest.mark.parametrize("name", available_workloads())
def test_generating(benchmark, name):
    rows = benchmark.pedantic(
        lambda: sum(1 for _ in generate(name, n=20_000, rate_rps=4.0, seed=0)), rounds=3
    )
    assert rows == 20_000
    benchmark.extra_info["rows_per_s"] = round(20_000 / benchmark.stats.stats.min)


@pytest.mark.parametrize("name", available_session_workloads())
def test_generating_sessions(benchmark, name):
    turns = benchmark.pedantic(
        lambda: sum(len(s.turns) for s in generate_sessions(name, n=1000, seed=0)), rounds=3
    )
    assert turns >= 1000
    benchmark.extra_info["turns_per_s"] = round(turns / benchmark.stats.stats.min)
