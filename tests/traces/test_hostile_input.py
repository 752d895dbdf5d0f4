"""Whatever a file holds, a reader either reads it or raises TraceError: nothing else, and soon."""

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidkv.workloads.traces import TRACE_FORMATS, TraceError, read_trace
from bidkv.workloads.traces.formats.mooncake import OPTIONAL_FIELDS
from bidkv.workloads.traces.limits import MAX_LINE_BYTES

FORMATS = [f for f in TRACE_FORMATS if f != "auto"]
AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
LENGTHS = b"prompt_tokens,output_tokens\n"
GOOD = {"timestamp": 1, "input_length": 600, "output_length": 5}


def consume(path, trace_format="auto"):
    rate = 1.0 if trace_format == "lengths" else None
    return sum(1 for _ in read_trace(path, trace_format=trace_format, rate_rps=rate))


def message_of(tmp_path, content: bytes, trace_format="auto") -> str:
    path = tmp_path / "trace.file"
    path.write_bytes(content)
    with pytest.raises(TraceError) as caught:
        consume(path, trace_format)
    message = str(caught.value)
    assert "trace.file" in message
    assert len(message) < 700 + len(str(path))
    return message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in (
            "timestamp",
            "input_length",
            "output_length",
            "max_tokens",
            "priority",
            "deadline_ms",
            "weight",
        )
        for value in (True, "12", [], {}, -(10**30), 10**30)
    ]
    + [
        (field, value)
        for field in ("input_length", "output_length", "max_tokens")
        for value in (0, -1, 1.5, 2.0)
        if (field, value) != ("output_length", 0)  # a request that failed
    ]
    + [(field, value) for field in ("timestamp", "input_length", "output_length") for value in (None,)]
    + [
        ("max_tokens", 4),
        ("deadline_ms", 0),
        ("weight", 0),
        ("weight", -1.5),
        ("priority", 0.5),
        ("timestamp", -0.001),
    ]
    + [("hash_ids", value) for value in (3, "ab", [1.0], [True], [-1], [2**63], [[1]], {}, [1, 2, 3])]
    + [
        (field, value)
        for field in ("agent_id", "request_id")
        for value in (1, True, "x" * 300, "a\nb", "\ud800", [])
    ]
    + [("request_id", "")],
)
def test_mooncake_names_the_field_and_line(tmp_path, field, value):
    rows = [GOOD, {**GOOD, "timestamp": 2, field: value}]
    message = message_of(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    assert f"line 2, field '{field}': expected" in message
    assert "found" in message


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"12",
        b'"x"',
        b"null",
        b"{",
        b"{}{}",
        b"\xff\xfe{}",
        b"\x00",
        b"[" * 1_000_000,
        b'{"timestamp":' * 70_000,
        b'{"timestamp": NaN, "input_length": 1, "output_length": 1}',
        b'{"timestamp": -Infinity, "input_length": 1, "output_length": 1}',
        b'{"timestamp": 1e999999999999999999999, "input_length": 1, "output_length": 1}',
        b'{"timestamp": 5, "input_length": ' + b"9" * 5000 + b', "output_length": 1}',
        b'{"timestamp": 5, "input_length": 1, "input_length": 2, "output_length": 1}',
    ],
)
def test_mooncake_names_the_line_of_what_is_no_row(tmp_path, line):
    message = message_of(tmp_path, json.dumps(GOOD).encode() + b"\n" + line, "mooncake")
    assert "line 2: expected one JSON object" in message


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (b"2023-11-16 18:15:46.68,0,1", "ContextTokens"),
        (b"2023-11-16 18:15:46.68,1,-1", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1,1.5", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1,nan", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1,1_0", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1,100000001", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1," + b"9" * 100_000, "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,1,\xd9\xa1", "GeneratedTokens"),
        (b"2023-11-16 18:15:46.68,,1", "ContextTokens"),
        (b"2023-11-16 18:15:46.68\x00,1,1", "TIMESTAMP"),
        (b"2023-13-16 18:15:46.68,1,1", "TIMESTAMP"),
        (b"2023-11-16 24:15:46.68,1,1", "TIMESTAMP"),
        (b"2023-11-16 18:15:60.68,1,1", "TIMESTAMP"),
        (b"2023-11-16 18:15:46.68+25:00,1,1", "TIMESTAMP"),
        (b"0000-11-16 18:15:46.68,1,1", "TIMESTAMP"),
        (b"1700000000,1,1", "TIMESTAMP"),
        (b",1,1", "TIMESTAMP"),
        (b"2023-11-16 18:15:45,1,1", "TIMESTAMP"),
    ],
)
def test_azure_names_the_field_and_line(tmp_path, row, field):
    message = message_of(tmp_path, AZURE + b"2023-11-16 18:15:46,1,1\n" + row)
    assert f"line 3, field '{field}': expected" in message
    assert "found" in message


@pytest.mark.parametrize("row", [b"1", b"1,2,3", b",", b"1,x", b"x,1", b"1,1e3", b'"1"",1', b"\x00,1"])
def test_lengths_name_the_line(tmp_path, row):
    assert "line 3" in message_of(tmp_path, LENGTHS + b"1,1\n" + row, "lengths")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "expected at least one request; the file is empty"),
        (b"\n\n", "expected at least one request; the file is empty"),
        (b"a,b\n1,2\n", "TIMESTAMP,ContextTokens,GeneratedTokens"),
        (b"\xff\xfe{\x00", "expected a JSON object (mooncake) or a CSV header"),
        (b"," * 900_000, "a header of at most 256 columns"),
        (AZURE.strip() + b",TIMESTAMP\n", "field 'TIMESTAMP': expected each column once"),
        (AZURE, "expected at least one request below the header"),
        (b'{"timestamp": 1', "line 1: expected one JSON object"),
    ],
)
def test_what_is_no_trace_is_said(tmp_path, content, part):
    assert part in message_of(tmp_path, content)


@pytest.mark.parametrize("trace_format", FORMATS)
def test_an_empty_file_is_no_trace(tmp_path, trace_format):
    assert "expected" in message_of(tmp_path, b"", trace_format)


def test_a_trace_of_lengths_asks_for_a_rate(tmp_path):
    assert "state a rate" in message_of(tmp_path, LENGTHS + b"1,1\n")


def test_time_that_goes_backwards_is_an_error_and_equal_times_are_not(tmp_path):
    rows = [{**GOOD, "timestamp": t} for t in (1, 5, 5, 4.5)]
    message = message_of(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    assert "line 4, field 'timestamp': expected rows in order of time, none before 5 ms" in message
    assert "found 4.5" in message


def test_an_empty_line_between_rows_is_an_error(tmp_path):
    row = json.dumps(GOOD).encode()
    assert "line 2: expected a request" in message_of(tmp_path, row + b"\n\r\n" + row)


def test_a_rate_needs_a_span_of_time(tmp_path):
    path = tmp_path / "trace"
    path.write_text(f"{json.dumps(GOOD)}\n" * 3)
    with pytest.raises(TraceError, match="3 requests arrive at one instant"):
        read_trace(path, rate_rps=1.0)


@pytest.mark.parametrize("names", [["a", "a"], [None, "r0"], ["r1", None], [None, "x", "r2", None, "x"]])
def test_a_name_given_twice_is_an_error(tmp_path, names):
    rows = [GOOD if name is None else {**GOOD, "request_id": name} for name in names]
    message = message_of(tmp_path, "\n".join(map(json.dumps, rows)).encode())
    assert f"line {len(names)}, field 'request_id': expected a name that no other request has" in message


@pytest.mark.parametrize("trace_format", ["auto", *FORMATS])
def test_a_line_of_a_hundred_megabytes_stays_on_disk(tmp_path, trace_format):
    path = tmp_path / "trace"
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"1" * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TraceError, match="line 1: expected a line of at most"):
            consume(path, trace_format)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["missing", ".", "\x00", "x" * 5000])
def test_what_is_no_file_is_an_error_that_lists_names(tmp_path, name):
    with pytest.raises(TraceError, match=r"azure-conv|regular file"):
        read_trace(tmp_path / name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"trace_format": "csv"},
        {"limit": 0},
        {"rate_rps": 0.0},
        {"rate_rps": float("nan")},
        {"rate_rps": -1.0},
        {"arrivals": "gamma"},
        {"cv": 2.0},
    ],
)
def test_arguments_are_checked_at_the_call(arguments):
    with pytest.raises(ValueError, match=r"must be|of its own"):
        read_trace("azure-conv", **arguments)


@pytest.mark.parametrize(
    "arguments", [{"cv": 2.0}, {"arrivals": "gamma", "cv": 0.0}, {"arrivals": "weibull"}]
)
def test_arrivals_are_checked_at_the_call(tmp_path, arguments):
    path = tmp_path / "trace"
    path.write_bytes(LENGTHS + b"1,1\n")
    with pytest.raises(ValueError, match=r"cv|arrivals"):
        read_trace(path, rate_rps=1.0, **arguments)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([0, 1, 10**8, 10**9]),
)
fields = st.sampled_from(("timestamp", "input_length", "output_length", "hash_ids", *OPTIONAL_FIELDS))
rows = st.dictionaries(fields | st.text(max_size=4), scalars | st.lists(scalars, max_size=4), max_size=8)
json_lines = st.lists(rows.map(lambda row: json.dumps({**GOOD, **row}).encode()), max_size=5).map(b"\n".join)
cells = st.one_of(
    st.binary(max_size=12),
    st.integers(-5, 10**10).map(lambda n: str(n).encode()),
    st.just(b"2023-11-16 18:15:46.68"),
    st.datetimes().map(lambda moment: str(moment).encode()),
)
csv_rows = st.lists(st.lists(cells, min_size=2, max_size=4).map(b",".join), max_size=5).map(b"\n".join)
contents = st.one_of(
    st.binary(max_size=300),
    json_lines,
    csv_rows.map(AZURE.__add__),
    csv_rows.map(LENGTHS.__add__),
    st.tuples(json_lines, st.binary(max_size=20)).map(b"".join),
)


@pytest.mark.parametrize("trace_format", ["auto", *FORMATS])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=contents)
def test_no_bytes_raise_anything_but_a_trace_error(tmp_path, trace_format, content):
    path = tmp_path / "fuzzed"
    path.write_bytes(content)
    try:
        requests = list(read_trace(path, trace_format=trace_format, rate_rps=2.0))
    except TraceError as error:
        message = str(error)
    else:
        message = ""
        assert requests
        assert all(r.prompt_tokens >= 1 and r.output_tokens >= 1 for r in requests)
        assert [r.arrival_s for r in requests] == sorted(r.arrival_s for r in requests)
    assert not message or "fuzzed" in message
