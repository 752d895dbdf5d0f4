"""A run survives its JSON document exactly, and a broken document is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.results import (
    EngineTotals,
    Outcome,
    RequestRecord,
    RunResult,
    SchemaError,
    TimelinePoint,
    TokenGaps,
    decode,
    encode,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 10**12)
records = st.builds(
    RequestRecord,
    request_id=st.text(max_size=20),
    arrival_s=finite,
    prompt_tokens=counts,
    output_tokens=counts,
    first_token_s=st.none() | finite,
    finish_s=st.none() | finite,
    preemptions=counts,
    outcome=st.sampled_from(Outcome),
    detail=st.text(max_size=20),
    session_id=st.text(max_size=20),
    turn=counts,
    ends_session=st.booleans(),
    new_tokens=st.none() | counts,
    cached_tokens=st.none() | counts,
)
points = st.builds(
    TimelinePoint,
    time_s=finite,
    used_blocks=counts,
    running=counts,
    waiting=counts,
    preemptions=counts,
    idle_session_blocks=counts,
)
gaps = st.builds(
    TokenGaps,
    st.dictionaries(st.integers(-2000, 2000), st.integers(1, 10**12)).map(lambda d: list(d.items())),
    st.floats(0.0, 1e9),
)
totals = st.builds(
    EngineTotals,
    steps=counts,
    busy_s=finite,
    extra=st.dictionaries(st.text(), finite),
    prompt_tokens_seen=st.none() | counts,
    prefix_hit_tokens=st.none() | counts,
    lost_prefix_tokens=st.none() | counts,
    token_gaps=st.none() | gaps,
)
runs = st.builds(
    RunResult,
    strategy=st.text(max_size=20),
    records=st.lists(records, max_size=5),
    totals=totals,
    simulated_s=finite,
    wall_s=finite,
    timeline=st.lists(points, max_size=5),
    notes=st.dictionaries(st.text(), st.integers() | st.text() | st.none()),
)


@given(runs)
def test_a_run_comes_back_equal(run: RunResult) -> None:
    assert decode(encode(run)) == run


def one_run() -> RunResult:
    return RunResult("lcf", [RequestRecord("r0", 0.0, 5, 2, 0.1, 0.2)], EngineTotals(), 0.2, 0.2)


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (lambda d: d.update(version=3), "'version': expected 1 or 2, found 3"),
        (lambda d: d.update(schema="other"), "'schema': expected 'bidkv.run'"),
        (lambda d: d.pop("notes"), "expected an object with exactly the fields"),
        (lambda d: d["records"]["columns"].reverse(), "'records.columns'"),
        (lambda d: d["records"]["rows"][0].pop(), "'records.rows[0]': expected 14 values"),
        (lambda d: d["records"]["rows"][0].__setitem__(2, 1.5), "prompt_tokens': expected a whole number"),
        (lambda d: d["records"]["rows"][0].__setitem__(7, "gone"), "completed or failed or rejected"),
        (lambda d: d["totals"].update(steps=None), "'totals.steps': expected a whole number or a number"),
        (lambda d: d["totals"].update(token_gaps={"longest_s": 1, "counts": [[1]]}), "token_gaps.counts[0]"),
        (lambda d: d["records"]["rows"][0].__setitem__(11, 1), "ends_session': expected true or false"),
        (lambda d: d["totals"]["extra"].update(x=[]), "'totals.extra.x'"),
    ],
)
def test_a_broken_document_is_refused_by_place(spoil: Callable[[Any], object], place: str) -> None:
    document = json.loads(encode(one_run()))
    spoil(document)
    with pytest.raises(SchemaError) as error:
        decode(json.dumps(document), "file.json")
    assert place in str(error.value)
    assert str(error.value).startswith("file.json")


def test_a_document_of_the_first_version_is_read() -> None:
    """It had no sessions, no prefix figures and no gaps between tokens."""
    run = replace(one_run(), timeline=[TimelinePoint(0.1, 4, 1, 0, 0)])
    document = json.loads(encode(run))
    document["version"] = 1
    document["records"]["columns"] = document["records"]["columns"][:9]
    document["records"]["rows"] = [row[:9] for row in document["records"]["rows"]]
    document["timeline"]["columns"].pop()
    document["timeline"]["rows"] = [row[:5] for row in document["timeline"]["rows"]]
    for name in ("prompt_tokens_seen", "prefix_hit_tokens", "lost_prefix_tokens", "token_gaps"):
        del document["totals"][name]
    assert decode(json.dumps(document)) == run


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', "[" * 100_000])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^x\.json"):
        decode(text, "x.json")


def test_what_json_cannot_hold_is_refused_when_written() -> None:
    run = one_run()
    run.notes["engine"] = object()
    with pytest.raises(ValueError, match="notes must be what JSON can hold"):
        encode(run)
    run.notes["engine"] = float("nan")
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(run)
