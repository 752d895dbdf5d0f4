"""Whatever bytes a reader gets: it takes them or raises its documented error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.readers import Reader, feed, readers
from tests.reliability.valid_inputs import HOSTILE

from bidkv.observability.samples import parse_samples

READERS = list(readers())
edits = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 12), st.sampled_from(HOSTILE) | st.binary(max_size=6)),
    max_size=4,
)


def edited(seed: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replace `length` bytes at each place by others."""
    for place, length, new in changes:
        place %= len(seed) + 1
        seed = seed[:place] + new + seed[place + length :]
    return seed


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_the_valid_inputs_are_taken(reader: Reader) -> None:
    assert all(feed(reader, seed) for seed in reader.seeds)


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("content", HOSTILE, ids=lambda content: repr(content[:12]))
def test_hostile_inputs_are_refused_as_documented(reader: Reader, content: bytes) -> None:
    feed(reader, content)
    for seed in reader.seeds:
        for value in (b"1", b"600", b"0.1", b"2.5", b"10", b"4096", b'"sim"', b"1.0"):
            feed(reader, seed.replace(value, content, 1))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@given(data=st.data())
@settings(deadline=None)
def test_nothing_but_the_documented_error_comes_out(reader: Reader, data: st.DataObject) -> None:
    feed(reader, edited(data.draw(st.sampled_from(reader.seeds)), data.draw(edits)))


def test_infinity_is_refused_in_a_results_notes_too() -> None:
    result = next(reader for reader in READERS if reader.name == "result")
    assert not feed(result, result.seeds[0].replace(b'"notes":{', b'"notes":{"a":1e999,'))


def test_an_experiment_of_endless_repetitions_is_refused() -> None:
    experiment = next(reader for reader in READERS if reader.name == "experiment")
    assert not feed(experiment, experiment.seeds[0].replace(b'"runs": 2', b'"runs": 8' + b"0" * 90))
    assert not feed(experiment, experiment.seeds[0].replace(b'"requests": 10', b'"requests": 1' + b"0" * 90))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (b'"concurrent": 0', b'"concurrent": 1e4000'),
        (b'"runs": 2', b'"runs": 2.0'),
        (b'"seed": 1', b'"seed": null'),
        (b'"sim"', b"[]"),
        (b'"lcf"', b"7"),
    ],
)
def test_an_experiments_figures_are_of_their_kinds(good: bytes, bad: bytes) -> None:
    experiment = next(reader for reader in READERS if reader.name == "experiment")
    assert good in experiment.seeds[0]
    assert not feed(experiment, experiment.seeds[0].replace(good, bad))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sglang-config", b'{"schedule_conservativeness": []}'),
        ("sglang-config", b'{"chunked_prefill_size": "64"}'),
        ("sglang-config", b'{"context_length": {}}'),
        ("settings", b'{"delta_budget": -1' + b"0" * 400 + b"}"),
        ("settings", b'{"release_pct": ' + b"9" * 3000 + b"}"),
        ("stored-failure", b"[]"),
        ("samples", b"[" * 5000),
        ("samples", b'{"version": 1}\n{"request_id": "r", "intended_s": 0, "chunks": [[0.5, "2"]]}\n'),
        ("metrics-page", b'# TYPE x histogram\nx_bucket{l="1"} 1\n'),
        ("metrics-page", b"x" + b"[" * 5000),
        ("metrics-page", b"x" * 5000 + b"_bucket 1\n"),
        ("metrics-page", b"x 1" + b"0" * 400),
        ("exporter-page", b"bidkv_free_blocks none\n"),
        ("recorder-notes", b"[" * 5000),
        ("recorder-notes", b'{"graph_max_tokens": 1e999, "cudagraph_mode": "FULL"}'),
        ("validation-plan", b"[7]"),
        ("config-file", b"seed = " + b"9" * 5000),
        ("config-file", b"x = " + b"[" * 5000),
        ("comparison", b"[" * 9000),
        ("vocabulary", b"[]"),
        ("vocabulary", b'{"vocab_size": 1e999}'),
    ],
)
def test_what_fuzzing_found_is_refused(name: str, content: bytes) -> None:
    assert not feed(next(reader for reader in READERS if reader.name == name), content)


def test_a_histogram_that_counts_nonsense_has_no_quantile() -> None:
    page = '# TYPE x histogram\nx_bucket{le="1"} 1\nx_bucket{le="+Inf"} NaN\n'
    assert parse_samples([page], 0.0).quantile("x", 0.5) is None
