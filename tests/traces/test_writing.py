"""What is written comes back equal, or is not written."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.traces import TraceError, read_trace, write_mooncake

names = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=6).filter(
    str.isprintable
)


@st.composite
def workloads(draw):
    times = sorted(draw(st.lists(st.floats(0, 1e9), min_size=1, max_size=6)))
    ids = draw(st.lists(names, min_size=len(times), max_size=len(times), unique=True))
    requests = []
    for index, arrival_s in enumerate(times):
        prompt, output = draw(st.integers(1, 10**8)), draw(st.integers(1, 10**8))
        requests.append(
            WorkloadRequest(
                draw(st.sampled_from([f"r{index}", f"x{ids[index]}"])),
                arrival_s,
                prompt,
                output,
                draw(st.none() | st.integers(output, 10**8)),
                draw(st.integers(-(2**31) + 1, 2**31 - 1)),
                draw(st.none() | st.floats(1e-6, 1e12)),
                draw(st.floats(1e-300, 1e9)),
                tuple(draw(st.lists(st.integers(0, 2**63 - 1), max_size=min(3, math.ceil(prompt / 512))))),
                draw(st.just("") | names),
            )
        )
    return requests


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=workloads())
def test_every_workload_comes_back_equal(tmp_path, requests):
    path = tmp_path / "workload.jsonl"
    assert write_mooncake(requests, path) == len(requests)
    assert list(read_trace(path)) == requests


@pytest.mark.parametrize("name", ["azure-conv", "mooncake-conv"])
def test_shipped_traces_come_back_equal(tmp_path, name):
    requests = list(read_trace(name, rate_rps=1.7))
    write_mooncake(requests, tmp_path / "copy.jsonl")
    assert list(read_trace(tmp_path / "copy.jsonl")) == requests


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        (WorkloadRequest("r0", math.nan, 1, 1), "NaN"),
        (WorkloadRequest("r0", -1.0, 1, 1), "timestamp"),
        (WorkloadRequest("r0", 0.0, 0, 1), "input_length"),
        (WorkloadRequest("r0", 0.0, 1, 1, weight=math.inf), "Infinity"),
        (WorkloadRequest("", 0.0, 1, 1), "request_id"),
        (WorkloadRequest("r0", 0.0, 1, 1, hash_ids=(1, 2)), "hash_ids"),
        (WorkloadRequest("r0", 0.0, 10**8, 1, hash_ids=(2**62,) * 60_000), "at most 1,048,576 bytes"),
    ],
)
def test_what_no_reader_would_take_is_refused_and_the_old_file_stays(tmp_path, request_, part):
    path = tmp_path / "workload.jsonl"
    path.write_text("before")
    with pytest.raises(TraceError, match=part):
        write_mooncake([request_], path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_workload_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one request"):
        write_mooncake([], tmp_path / "workload.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_midway_leaves_nothing(tmp_path):
    def broken():
        yield WorkloadRequest("r0", 0.0, 1, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mooncake(broken(), tmp_path / "workload.jsonl")
    assert list(tmp_path.iterdir()) == []
