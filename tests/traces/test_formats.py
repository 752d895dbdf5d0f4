"""Every format, read from a small file of its own with the right values."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session, Turn
from bidkv.workloads.traces import (
    TRACE_FORMATS,
    TraceError,
    TraceOptions,
    detect_format,
    open_trace,
    parse_columns,
    read_sessions,
    read_trace,
)

DATA = Path(__file__).parents[1] / "data" / "traces"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(content: str | bytes, name: str = "trace") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def lengths(requests: list[WorkloadRequest]) -> list[tuple[float, int, int]]:
    return [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("aiperf.jsonl", "mooncake-sessions"),
        ("dynamo-sessions.jsonl", "mooncake-sessions"),
        ("dynamo.jsonl", "dynamo"),
        ("bailian.jsonl", "bailian"),
        ("tracelab.jsonl", "tracelab"),
        ("burstgpt-6.csv", "burstgpt"),
        ("burstgpt-8.csv", "burstgpt"),
        ("azure-multimodal.csv", "azure"),
        ("vidur.csv", "vidur"),
        ("guidellm.jsonl", "guidellm"),
        ("vllm-bench.json", "vllm-bench"),
        ("sharegpt.json", "chats"),
        ("chats.jsonl", "chats"),
        ("otlp.json", "spans"),
        ("spans.jsonl", "spans"),
    ],
)
def test_formats_are_told_by_content(file: str, kind: str) -> None:
    assert detect_format(DATA / file) == kind
    assert kind in TRACE_FORMATS


def test_aiperf_turns_wait_for_the_answer_and_add_to_the_past() -> None:
    trace = open_trace(DATA / "aiperf.jsonl")
    assert trace.has_sessions
    a, b = trace.sessions()
    prefix = (0, 1, 2, 3, 4, 405, 406, 407)
    assert a == Session(
        "sess-a",
        (
            Turn(5707, 144, hash_ids=(*prefix, 200005, 200006, 200007, 200008)),
            Turn(628, 146, 1.3977, hash_ids=(208017, 208018)),
        ),
        0.0,
    )
    assert [t.gap_s for t in b.turns] == [0.0, 50.3652, 1.9487]
    assert b.prompt_lengths() == [4994, 4994 + 121 + 176, 4994 + 121 + 176 + 439 + 17]
    assert (trace.report.sessions, trace.report.requests, trace.report.tokens_per_hash_id) == (2, 5, 512)
    assert trace.report.warnings == []
    with pytest.raises(TraceError, match="expected single requests, found sessions"):
        read_trace(DATA / "aiperf.jsonl")


def test_dynamo_names_are_accepted() -> None:
    assert lengths(list(read_trace(DATA / "dynamo.jsonl"))) == [(0.0, 900, 80), (1.5, 1200, 40)]
    assert read_sessions(DATA / "dynamo-sessions.jsonl") == [
        Session("d", (Turn(900, 80), Turn(300, 40, 5.0)), 0.25)
    ]


def test_prompts_that_look_whole_are_doubted_and_can_be_stated() -> None:
    path = DATA / "whole-prompts.jsonl"
    trace = open_trace(path)
    assert trace.sessions()[0].prompt_lengths() == [1500, 3580]
    assert len(trace.report.warnings) == 1
    assert "--input-lengths whole" in trace.report.warnings[0]
    for stated, prompts in (("new", [1500, 3580]), ("whole", [1500, 2000])):
        trace = open_trace(path, options=TraceOptions(input_lengths=stated))
        assert trace.sessions()[0].prompt_lengths() == prompts
        assert trace.report.warnings == []


def test_turns_with_times_alone_wait_what_lies_between_them(write: Callable[..., Path]) -> None:
    rows = [{"session_id": "s", "timestamp": t, "input_length": 9, "output_length": 50} for t in (0, 4000)]
    path = write("\n".join(map(json.dumps, rows)))
    trace = open_trace(path)
    assert trace.sessions()[0].turns[1].gap_s == 4.0
    assert "--answer-tokens-per-s" in trace.report.notes[0]
    told = TraceOptions(answer_tokens_per_s=25.0)
    assert read_sessions(path, options=told)[0].turns[1].gap_s == 2.0


def test_bailian_as_sessions() -> None:
    trace = open_trace(DATA / "bailian.jsonl")
    first, branch = trace.sessions()
    assert first.session_id == "159"
    assert first.start_s == 1.5
    assert first.chunk_tokens == 16
    assert first.prompt_lengths() == [40, 70, 80, 50]
    # All of the past; the prompt without the answer; the one chunk that both prompts have.
    assert [t.kept_tokens for t in first.turns] == [None, None, 70, 16]
    assert [t.new_tokens for t in first.turns] == [40, 20, 10, 34]
    assert [t.gap_s for t in first.turns] == [0.0, 7.75, 20.75, 10.0]
    assert first.turns[0].hash_ids == (7, 8, 9)
    # The second request that goes on from 159 starts a session of its own, with the same first chunks.
    assert branch == Session("161", (Turn(60, 5, hash_ids=(7, 8, 13, 14)),), 10.0, chunk_tokens=16)
    assert any("go on from a request that another one already went on from" in n for n in trace.report.notes)


def test_bailian_as_requests_at_their_recorded_times() -> None:
    requests = list(read_trace(DATA / "bailian.jsonl"))
    assert [r.arrival_s for r in requests] == [1.5, 9.25, 10.0, 30.0, 40.0]
    assert requests[1].hash_ids == (7, 8, 10, 11, 12)


def test_tracelab_rounds() -> None:
    trace = open_trace(DATA / "tracelab.jsonl")
    a, b = trace.sessions()
    assert (a.session_id, a.agent_id, a.start_s) == ("claude:a", "claude", 0.0)
    assert a.prompt_lengths() == [32272, 35740, 12000]
    # 35,740 exceed 32,272 + 931; 12,000 are fewer than before, of which 8,000 were found in the cache.
    assert [t.kept_tokens for t in a.turns] == [None, None, 8000]
    # From 05:40:31.647 to 05:40:50.938, and from 05:41:04.609 to 05:42:04.609.
    assert [t.gap_s for t in a.turns] == [0.0, 19.291, 60.0]
    assert [t.gap_kind for t in a.turns] == ["", "tool", "human"]
    # 9,030 tokens are no more than 9,000 + 50: the answer was left out.
    assert [(t.new_tokens, t.kept_tokens, t.gap_s) for t in b.turns] == [(9000, None, 0.0), (30, 9000, 0.5)]
    assert b.start_s == pytest.approx(39.849)
    assert trace.report.left_out == {"rounds without timing events": 1}


def test_burstgpt_leaves_failures_out_and_counts_them() -> None:
    trace = open_trace(DATA / "burstgpt-6.csv")
    assert lengths(list(trace.requests())) == [(5.0, 472, 18), (45.0, 1087, 230), (118.5, 185, 76)]
    assert trace.report.left_out == {"without an answer, failed or cancelled": 1}
    assert trace.report.rate_rps == pytest.approx(2 / 113.5)
    assert [r.agent_id for r in read_trace(DATA / "burstgpt-8.csv")] == ["u1", "u2"]


def test_images_are_tokens_when_it_is_said_how_many() -> None:
    trace = open_trace(DATA / "azure-multimodal.csv")
    assert lengths(list(trace.requests())) == [(0.25, 812, 120), (0.9, 40, 88)]
    assert trace.report.left_out == {"without a prompt": 1}
    assert "--tokens-per-image" in trace.report.warnings[0]
    told = open_trace(DATA / "azure-multimodal.csv", options=TraceOptions(tokens_per_image=100))
    assert lengths(list(told.requests())) == [(0.0, 300, 41), (0.25, 812, 120), (0.9, 1240, 88)]
    assert told.report.warnings == []


def test_vidur_arrivals_are_read_and_stretched() -> None:
    assert lengths(list(read_trace(DATA / "vidur.csv"))) == [
        (0.0, 1000, 300),
        (0.0, 1005, 301),
        (300.25, 1010, 302),
    ]
    assert [r.arrival_s for r in read_trace(DATA / "vidur.csv", rate_rps=2.0)] == [0.0, 0.0, 1.0]


def test_guidellm_counts_seconds() -> None:
    assert lengths(list(read_trace(DATA / "guidellm.jsonl"))) == [
        (0.0, 700, 120),
        (0.5, 710, 121),
        (12.0, 720, 122),
    ]


def test_benchmark_results_give_lengths_and_start_times(write: Callable[..., Path]) -> None:
    expected = [(0.0, 700, 150), (0.25, 800, 200), (3.5, 5, 250)]
    trace = open_trace(DATA / "vllm-bench.json")
    assert lengths(list(trace.requests())) == expected
    assert trace.report.left_out == {"without an answer, failed or cancelled": 1}
    result = json.loads((DATA / "vllm-bench.json").read_text())
    pretty = write(json.dumps(result, indent=2))
    assert lengths(list(read_trace(pretty))) == expected
    del result["start_times"]
    untimed = write(json.dumps(result, indent=2), "untimed")
    with pytest.raises(TraceError, match="state a rate"):
        read_trace(untimed)
    assert [r.prompt_tokens for r in read_trace(untimed, rate_rps=1.0)] == [800, 700, 5]


def test_texts_are_counted_by_what_was_stated(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="--tokenizer FILE to count them, or --characters-per-token"):
        read_sessions(DATA / "sharegpt.json")
    estimate = TraceOptions(characters_per_token=4.0)
    trace = open_trace(DATA / "sharegpt.json", options=estimate)
    assert trace.sessions() == [Session("x.1", (Turn(2, 3), Turn(2, 1, gap_kind="human")))]
    assert trace.report.left_out == {"conversations without an answer": 1}
    assert read_sessions(DATA / "chats.jsonl", options=estimate) == [Session("c1.1", (Turn(3, 1),))]
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "abcd": 1, "a": 2}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        sessions = read_sessions(DATA / "sharegpt.json", options=TraceOptions(tokenizer=str(name)))
        assert sessions == [Session("x.1", (Turn(1, 1), Turn(1, 1, gap_kind="human")))]
    with pytest.raises(TraceError, match=r"expected a tokenizer\.json file"):
        read_sessions(DATA / "sharegpt.json", options=TraceOptions(tokenizer="nowhere"))


@pytest.mark.parametrize(("file", "gap_s"), [("otlp.json", 0.5), ("spans.jsonl", 3.0)])
def test_spans_of_one_conversation_are_turns(file: str, gap_s: float) -> None:
    session = read_sessions(DATA / file)[0]
    assert session.prompt_lengths() == [400, 520]
    assert [t.output_tokens for t in session.turns] == [50, 20]
    assert session.turns[1].gap_s == gap_s


def test_spans_that_overlap_are_no_turns_of_each_other() -> None:
    trace = open_trace(DATA / "otlp.json")
    assert [len(s.turns) for s in trace.sessions()] == [2, 1]
    assert trace.report.left_out == {"spans that are no call of a model": 1}
    requests = list(read_trace(DATA / "otlp.json"))
    assert lengths(requests) == [(0.0, 400, 50), (3.0, 520, 20), (3.5, 90, 9)]


def test_columns_of_any_table_can_be_stated() -> None:
    path = DATA / "server-log.csv"
    with pytest.raises(TraceError, match="--columns that state what other columns hold"):
        read_trace(path)
    columns = parse_columns("time=when, prompt=in, output=out, agent=client, priority=urgency")
    trace = open_trace(path, options=TraceOptions(columns=columns))
    assert list(trace.requests()) == [
        WorkloadRequest("r0", 0.0, 300, 40, priority=1, agent_id="alice"),
        WorkloadRequest("r1", 3.0, 320, 60, priority=-2),
    ]
    assert trace.report.time_unit == "date"
    with pytest.raises(TraceError, match="the column 'at' that --columns states as time"):
        read_trace(path, options=TraceOptions(columns={"time": "at", "prompt": "in", "output": "out"}))
    with pytest.raises(TraceError, match="expected --columns to state output=COLUMN"):
        read_trace(path, options=TraceOptions(columns={"prompt": "in"}), rate_rps=1.0)


def test_stated_columns_of_numbers_need_a_unit(write: Callable[..., Path]) -> None:
    path = write("begin,a,b\n1500,10,2\n2500,20,3\n")
    columns = {"time": "begin", "prompt": "a", "output": "b"}
    with pytest.raises(TraceError, match="--time-unit s or ms"):
        list(read_trace(path, options=TraceOptions(columns=columns)))
    for unit, times in (("ms", [1.5, 2.5]), ("s", [1500.0, 2500.0]), ("us", [0.0015, 0.0025])):
        stated = TraceOptions(columns=columns, time_unit=unit)
        assert [r.arrival_s for r in read_trace(path, options=stated)] == times


@pytest.mark.parametrize("text", ["", "time", "time=", "when=x", "time=a,time=b", "prompt=a,,output=b"])
def test_column_statements_are_checked(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_columns(text)


@pytest.mark.parametrize(
    ("stated", "part"),
    [
        ({"time_unit": "h"}, "--time-unit: expected one of s, ms, us, ns, found 'h'"),
        ({"tokens_per_hash_id": 0}, "--tokens-per-hash-id: expected a number from 1"),
        ({"input_lengths": "old"}, "--input-lengths: expected one of new, whole"),
        ({"characters_per_token": 0.0}, "--characters-per-token: expected"),
        ({"columns": {"when": "x"}}, "--columns: expected one of time, prompt"),
    ],
)
def test_options_are_checked(stated: dict[str, object], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        TraceOptions(**stated)  # type: ignore[arg-type]


def timestamps(unit: float) -> str:
    rows = ({"timestamp": k * unit, "input_length": 700, "output_length": 120} for k in range(40))
    return "\n".join(map(json.dumps, rows))


def test_seconds_in_a_file_of_milliseconds_are_not_taken_for_milliseconds(
    write: Callable[..., Path],
) -> None:
    path = write(timestamps(0.5))
    with pytest.raises(TraceError, match=r"40 requests would arrive within 0\.0195 s .* --time-unit s"):
        read_trace(path)
    stated = {unit: TraceOptions(time_unit=unit) for unit in ("s", "ms")}
    assert [r.arrival_s for r in read_trace(path, options=stated["s"])][-1] == 19.5
    assert [r.arrival_s for r in read_trace(path, options=stated["ms"])][-1] == 0.0195
    assert [r.arrival_s for r in read_trace(write(timestamps(500)))][-1] == 19.5


def test_times_since_1970_start_at_zero_when_their_unit_is_stated(write: Callable[..., Path]) -> None:
    rows = [{"timestamp": 1750000000.25 + k, "input_length": 7, "output_length": 2} for k in range(3)]
    path = write("\n".join(map(json.dumps, rows)))
    trace = open_trace(path, options=TraceOptions(time_unit="s"))
    assert [r.arrival_s for r in trace.requests()] == [0.0, 1.0, 2.0]
    assert trace.report.notes == ["times count seconds from 1970; the first request arrives at 0 s"]


def hashed(size: int, rows: int = 20) -> str:
    lines = []
    for k in range(rows):
        prompt = 2500 + 333 * k
        ids = [0, *range(100 * k + 1, 100 * k + -(-prompt // size))]
        lines.append(
            json.dumps({"timestamp": 100 * k, "input_length": prompt, "output_length": 9, "hash_ids": ids})
        )
    return "\n".join(lines)


@pytest.mark.parametrize("size", [64, 512, 1024, 2048])
def test_the_size_of_chunks_is_told_by_their_number(write: Callable[..., Path], size: int) -> None:
    trace = open_trace(write(hashed(size)))
    requests = list(trace.requests())
    assert trace.report.tokens_per_hash_id == size
    assert len(trace.report.notes) == (size != 512)
    assert len(requests[0].hash_ids) == -(-2500 // size)


def test_a_size_of_chunks_that_few_rows_leave_open_must_be_stated(write: Callable[..., Path]) -> None:
    path = write(hashed(64, rows=3))
    with pytest.raises(TraceError, match=r"at most 5 ids, .*--tokens-per-hash-id states another size"):
        list(read_trace(path))
    assert len(list(read_trace(path, options=TraceOptions(tokens_per_hash_id=64)))) == 3


def test_ids_that_cover_a_part_of_the_prompts_are_a_warning(write: Callable[..., Path]) -> None:
    rows = [
        {"timestamp": k, "input_length": 4000 + k, "output_length": 9, "hash_ids": [1, 2, k + 3]}
        for k in range(1, 3000, 100)
    ]
    trace = open_trace(write("\n".join(map(json.dumps, rows))))
    list(trace.requests())
    assert "hash ids of 512 tokens cover 28% of the prompts" in trace.report.warnings[0]
    assert "--tokens-per-hash-id" in trace.report.warnings[0]


def test_a_column_that_may_hold_arrivals_is_named(write: Callable[..., Path]) -> None:
    path = write("start_time,prompt_tokens,output_tokens\n1,2,3\n")
    with pytest.raises(TraceError, match=r"state a rate .* or --columns time=start_time,\.\.\."):
        read_trace(path)


def test_compressed_files_are_read_whatever_their_name(write: Callable[..., Path]) -> None:
    plain = DATA / "vidur.csv"
    packed = write(gzip.compress(plain.read_bytes()))
    assert list(read_trace(packed)) == list(read_trace(plain))
    assert list(read_trace(packed, rate_rps=2.0)) == list(read_trace(plain, rate_rps=2.0))
    zstandard = pytest.importorskip("zstandard")
    packed = write(zstandard.ZstdCompressor().compress(plain.read_bytes()), "other")
    assert list(read_trace(packed)) == list(read_trace(plain))
    broken = write(gzip.compress(plain.read_bytes())[:40], "broken")
    with pytest.raises(TraceError, match="cannot be read"):
        list(read_trace(broken))


def test_packed_documents_take_no_more_memory_than_they_hold(write: Callable[..., Path]) -> None:
    rows = [{"arrived_at": 0.5, "num_prefill_tokens": 10, "num_decode_tokens": 3}]
    packed = [gzip.compress(json.dumps(rows).encode())]
    with suppress(ImportError):
        packed.append(import_module("zstandard").compress(json.dumps(rows).encode()))
    for content in packed:
        path = write(content)
        tracemalloc.start()
        assert [request.prompt_tokens for request in read_trace(path)] == [10]
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 32 * 2**20


def test_parquet_and_json_lists_hold_the_same_rows(tmp_path: Path, write: Callable[..., Path]) -> None:
    plain = list(read_trace(DATA / "vidur.csv"))
    rows = [
        {
            "arrived_at": r.arrival_s,
            "num_prefill_tokens": r.prompt_tokens,
            "num_decode_tokens": r.output_tokens,
        }
        for r in plain
    ]
    assert list(read_trace(write(json.dumps(rows)))) == plain
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows")
    assert detect_format(tmp_path / "rows") == "vidur"
    assert list(read_trace(tmp_path / "rows")) == plain
    turns = [json.loads(line) for line in (DATA / "aiperf.jsonl").read_text().splitlines()]
    fields = {name: None for turn in turns for name in turn}
    sessions = [{**fields, **turn} for turn in turns]
    parquet.write_table(pa.Table.from_pylist(sessions), tmp_path / "sessions")
    assert read_sessions(tmp_path / "sessions") == read_sessions(DATA / "aiperf.jsonl")


def test_a_report_says_what_was_understood() -> None:
    trace = open_trace(DATA / "burstgpt-6.csv")
    list(trace.requests())
    head, left_out = trace.report.lines()
    assert head.endswith("burstgpt, 3 requests, timestamps in s over 113.5 s, 0.0176 a second")
    assert left_out == "left out 1 rows: without an answer, failed or cancelled"
    assert trace.report.as_dict()["left_out"] == {"without an answer, failed or cancelled": 1}


def test_quoted_cells_and_fields_within_objects_are_read(write: Callable[..., Path]) -> None:
    quoted = write('"when","what, exactly","in","out"\n"2026-03-01 08:00:00","a, b","300","40"\n')
    columns = {"time": "when", "prompt": "in", "output": "out"}
    assert lengths(list(read_trace(quoted, options=TraceOptions(columns=columns)))) == [(0.0, 300, 40)]
    plain_header = write('when,what,in,out\n2026-03-01 08:00:00,"a, b",300,40\n')
    assert lengths(list(read_trace(plain_header, options=TraceOptions(columns=columns)))) == [(0.0, 300, 40)]
    rows = [
        {"ts": 1.5 + k, "usage": {"prompt_tokens": 10 + k, "completion_tokens": 3}, "user": "u"}
        for k in range(2)
    ]
    nested = write("\n".join(map(json.dumps, rows)))
    stated = parse_columns("time=ts,prompt=usage.prompt_tokens,output=usage.completion_tokens,session=user")
    trace = open_trace(nested, options=TraceOptions(columns=stated, time_unit="s"))
    assert lengths(list(trace.requests())) == [(1.5, 10, 3), (2.5, 11, 3)]
    assert any("sessions are read as senders" in note for note in trace.report.notes)
    with pytest.raises(TraceError, match=r"the column 'usage\.tokens' that --columns states as prompt"):
        read_trace(nested, options=TraceOptions(columns={**stated, "prompt": "usage.tokens"}))


def test_blanks_before_a_quoted_header_change_nothing(write: Callable[..., Path]) -> None:
    path = write(' "arrived_at","num_prefill_tokens","num_decode_tokens"\n"1.5","7","3"\n')
    assert lengths(list(read_trace(path))) == [(1.5, 7, 3)]


def test_json_of_no_known_format_is_said(write: Callable[..., Path]) -> None:
    path = write('{"architectures": ["LlamaForCausalLM"], "hidden_size": 8192}')
    with pytest.raises(TraceError, match=r"or --columns that state .*, found 'architectures,hidden_size'"):
        read_trace(path)
