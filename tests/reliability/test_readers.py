"""Whatever bytes a reader gets: it takes them or raises its documented error."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.readers import Reader, feed, readers

READERS = list(readers())
HOSTILE = (
    b"", b"\x00", b"\xff\xfe\x00", b"NaN", b"1e999", b"-1", b"9" * 5000, b"[" * 5000, b'{"a":' * 5000,
    b"null", b"true", b'"\\ud800"', b"1e400", b"-0.0", b"1" + b"0" * 22, b"[]", b"{}", b'""', b"1.5",
    b"\r\n", b",",
)  # fmt: skip

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
    [(b'"runs": 2', b'"runs": 2.0'), (b'"seed": 1', b'"seed": null'), (b'"sim"', b"[]"), (b'"lcf"', b"7")],
)
def test_an_experiments_figures_are_of_their_kinds(good: bytes, bad: bytes) -> None:
    experiment = next(reader for reader in READERS if reader.name == "experiment")
    assert good in experiment.seeds[0]
    assert not feed(experiment, experiment.seeds[0].replace(good, bad))
