"""What a well-formed trace gives."""

import itertools
import tracemalloc

import pytest

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces import TraceError, available_traces, detect_format, read_trace

AZURE = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    b"2023-11-16 18:15:46.6805900,374,44\r\n"
    b"2023-11-16 18:15:50.9951690,396,109\r\n"
    b"2023-11-16 18:16:51.2224671,879,55"
)
MOONCAKE = (
    b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 7]}\n'
    b'{"timestamp": 1500.25, "input_length": 20, "output_length": 9, "max_tokens": 64, "priority": -3, '
    b'"deadline_ms": 2500, "weight": 0.5, "agent_id": "a", "unknown": {"x": []}}\n'
    b'{"timestamp": 3000, "input_length": 20, "output_length": 9, "max_tokens": null}\n'
)
LENGTHS = b"num_prefill_tokens,num_decode_tokens,num_total_tokens\n74,918,992\n290,905,1195\n5,1,6\n"


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name: str = "trace"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def test_azure_times_start_at_zero_and_keep_every_digit(write):
    requests = list(read_trace(write(AZURE)))
    assert [r.arrival_s for r in requests] == [0.0, 4.314579, 64.5418771]
    assert [(r.request_id, r.prompt_tokens, r.output_tokens) for r in requests] == [
        ("r0", 374, 44),
        ("r1", 396, 109),
        ("r2", 879, 55),
    ]


def test_azure_offsets_from_utc_are_honored(write):
    rows = b"2024-05-10 00:00:00.5+00:00,1,1\n2024-05-10 02:00:01.5+02:00,1,1\n2024-05-10T00:00:02Z,1,1\n"
    requests = read_trace(write(AZURE.splitlines()[0] + b"\n" + rows))
    assert [r.arrival_s for r in requests] == [0.0, 1.0, 1.5]


def test_mooncake_fields_all_arrive(write):
    first, second, third = read_trace(write(MOONCAKE))
    assert first == WorkloadRequest("r0", 0.0, 600, 5, hash_ids=(0, 7))
    assert second == WorkloadRequest("r1", 1.50025, 20, 9, 64, -3, 2500.0, 0.5, (), "a")
    assert third == WorkloadRequest("r2", 3.0, 20, 9)


def test_lengths_get_arrivals_at_the_rate(write):
    many = LENGTHS.splitlines()[0] + b"\n" + b"5,2,7\n" * 20_000
    requests = list(read_trace(write(many), rate_rps=4.0, seed=3))
    assert requests[0].arrival_s == 0.0
    assert 19_999 / requests[-1].arrival_s == pytest.approx(4.0, rel=0.03)


@pytest.mark.parametrize("cv", [0.5, 2.0, 4.0])
def test_gamma_arrivals_have_the_stated_variation(write, cv):
    many = b"prompt_tokens,output_tokens\n" + b"5,2\n" * 20_000
    times = [r.arrival_s for r in read_trace(write(many), rate_rps=1.0, arrivals="gamma", cv=cv, seed=1)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((g - mean) ** 2 for g in gaps) / len(gaps)) ** 0.5
    assert deviation / mean == pytest.approx(cv, rel=0.1)


def test_arrivals_depend_on_the_seed_alone(write):
    path = write(LENGTHS)
    once, again, other = (list(read_trace(path, rate_rps=1.0, seed=s)) for s in (1, 1, 2))
    assert once == again
    assert once != other


@pytest.mark.parametrize("content", [AZURE, MOONCAKE])
def test_a_rate_stretches_time_and_keeps_its_shape(write, content):
    path = write(content)
    plain = [r.arrival_s for r in read_trace(path)]
    scaled = [r.arrival_s for r in read_trace(path, rate_rps=10.0)]
    assert scaled[0] == 0.0
    assert (len(scaled) - 1) / scaled[-1] == pytest.approx(10.0)
    assert scaled[1] / scaled[2] == pytest.approx(plain[1] / plain[2])


def test_a_rate_looks_only_at_the_requests_within_the_limit(write):
    scaled = [r.arrival_s for r in read_trace(write(AZURE), rate_rps=0.5, limit=2)]
    assert scaled == [0.0, pytest.approx(2.0)]


def test_a_rate_leaves_a_single_request_at_zero(write):
    late = b'{"timestamp": 5000, "input_length": 1, "output_length": 1}\n'
    assert [r.arrival_s for r in read_trace(write(late), rate_rps=2.0)] == [0.0]


def test_a_limit_stops_before_a_broken_row(write):
    path = write(MOONCAKE + b"broken")
    assert len(list(read_trace(path, limit=3))) == 3
    with pytest.raises(TraceError, match="line 4"):
        list(read_trace(path))


@pytest.mark.parametrize(
    ("content", "kind"),
    [(AZURE, "azure"), (MOONCAKE, "mooncake"), (LENGTHS, "lengths"), (b"\xef\xbb\xbf" + AZURE, "azure")],
)
def test_formats_are_told_by_content(write, content, kind):
    assert detect_format(write(content)) == kind


def test_empty_lines_may_end_a_file(write):
    assert len(list(read_trace(write(MOONCAKE + b"\n\r\n\n")))) == 3


def test_the_shipped_azure_slice_is_the_head_of_the_trace():
    requests = list(read_trace("azure-conv"))
    assert "azure-conv" in available_traces()
    assert len(requests) == 2000
    assert requests[1] == WorkloadRequest("r1", 4.314579, 396, 109)
    assert requests[-1] == WorkloadRequest("r1999", 424.259457, 424, 96)


def test_names_given_in_the_file_are_kept_and_mix_with_others(write):
    row = b'{"timestamp": 0, "input_length": 1, "output_length": 1%s}\n'
    path = write(row % b"" + row % b', "request_id": "x"' + row % b"")
    assert [r.request_id for r in read_trace(path)] == ["r0", "x", "r2"]


@pytest.mark.parametrize("kind", ["mooncake", "azure", "lengths"])
def test_memory_does_not_grow_with_the_file(write, kind):
    header, row = {
        "mooncake": (b"", b'{"timestamp": 5, "input_length": 1, "output_length": 1}\n'),
        "azure": (AZURE.splitlines()[0] + b"\n", b"2023-11-16 18:15:46.6805900,374,44\n"),
        "lengths": (b"prompt_tokens,output_tokens\n", b"5,2\n"),
    }[kind]
    path = write(header + row * 20_000)
    tracemalloc.start()
    try:
        rate_rps = 1.0 if kind == "lengths" else None
        assert sum(1 for _ in read_trace(path, rate_rps=rate_rps)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
