"""Values of CSV cells: the quick ways of reading them give what the careful ones give."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidkv.workloads.traces import TraceError, TraceOptions, read_trace
from bidkv.workloads.traces.clock import Numbers
from bidkv.workloads.traces.values import DateParser, WholeCells, whole

dates = st.builds(
    "{}:{}{}{}".format,
    st.sampled_from(["2023-11-16 18:15", "2023-11-16 18:16", "2024-02-30 00:00", " 2023-11-16 18:15", "x"]),
    st.sampled_from(["00", "59", "60", "7", "ab", "-1"]),
    st.sampled_from(["", ".", ".5", ".000000001", ".1234567890", ". 5", ".5 "]),
    st.sampled_from(["", "Z", "+01:00"]),
)


def parsed(parser: DateParser, cell: bytes) -> int | None:
    try:
        return parser.parse(1, cell)
    except TraceError:
        return None


@given(st.lists(dates, max_size=6))
def test_a_date_is_read_alike_whatever_stood_above(cells: list[str]) -> None:
    parser = DateParser("f", "t")
    for cell in cells:
        assert parsed(parser, cell.encode()) == parsed(DateParser("f", "t"), cell.encode())


@given(st.text(alphabet="0123456789._-+eE ", max_size=12))
def test_seconds_are_the_number_that_is_written(text: str) -> None:
    clock = Numbers("f", "t", "s")
    try:
        read = clock.read(1, text.encode())
    except TraceError:
        return
    assert "_" not in text
    assert read == float(Decimal(text.strip()))


@given(st.lists(st.binary(max_size=4) | st.integers(0, 10**9).map(lambda n: str(n).encode()), max_size=8))
def test_a_count_is_read_alike_when_it_occurs_again(cells: list[bytes]) -> None:
    counts = WholeCells()
    for cell in cells * 2:
        assert counts[cell] == whole(cell)


def test_a_broken_cell_names_its_own_row_where_others_repeat(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    good = "0.5,10,3,alice,2,1.5\n"
    options = TraceOptions(
        time_unit="s",
        columns={
            "time": "t",
            "prompt": "in",
            "output": "out",
            "agent": "who",
            "priority": "p",
            "weight": "w",
        },
    )
    for bad, field in ((good.replace("10", "1x"), "in"), (good.replace("1.5", "-1"), "w")):
        file.write_text("t,in,out,who,p,w\n" + 3 * good + bad)
        with pytest.raises(TraceError, match=f"line 5, field '{field}'"):
            list(read_trace(file, options=options))
    file.write_text("t,in,out,who,p,w\n" + 2 * good + good.replace("alice,2", "bob,-1"))
    read = list(read_trace(file, options=options))
    assert [(r.agent_id, r.priority, r.weight) for r in read] == [("alice", 2, 1.5)] * 2 + [("bob", -1, 1.5)]
