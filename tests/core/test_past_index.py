"""Sessions that no client named are found by the past that a request repeats."""

from __future__ import annotations

from bidkv.control.past_index import PastIndex
from bidkv.control.prefix_tree import PrefixTree
from bidkv.control.tracked_session import TrackedSession


def make_session(name: str) -> TrackedSession:
    return TrackedSession(name, 0.0, PrefixTree())


def test_the_longest_repeated_past_names_the_session() -> None:
    index = PastIndex(10)
    short, long = make_session("short"), make_session("long")
    index.add(short, "ab", 1)
    index.add(long, "abcd", 3)
    assert index.find("abcdx") is long
    assert index.find("abcx") is long, "the answer was rewritten, its prompt is repeated"
    assert index.find("abx") is short
    assert index.find("ax") is short, "its prompt was a alone"
    assert index.find("xyz") is None
    assert index.find("") is None


def test_a_session_that_goes_on_is_not_found_a_second_time() -> None:
    index = PastIndex(10)
    session = make_session("s")
    index.add(session, "abc", 2)
    index.remove(session)
    assert index.find("abcd") is None
    assert len(index) == 0
    index.remove(session)


def test_of_two_that_ended_alike_the_later_goes_on_and_the_other_stays_known_by_its_answer() -> None:
    index = PastIndex(10)
    first, second = make_session("first"), make_session("second")
    index.add(first, ["p", "answer 1"], 1)
    index.add(second, ["p", "answer 2"], 1)
    assert index.find(["p", "x"]) is second
    assert index.find(["p", "answer 1", "x"]) is first
    index.remove(second)
    assert index.find(["p", "x"]) is None
    assert index.find(["p", "answer 1", "x"]) is first


def test_a_past_without_a_full_block_cannot_be_found() -> None:
    index = PastIndex(10)
    index.add(make_session("s"), "", 0)
    assert len(index) == 0


def test_the_list_is_bounded() -> None:
    index = PastIndex(3)
    sessions = [make_session(str(number)) for number in range(5)]
    for session in sessions:
        index.add(session, [f"{session.session_id} prompt", f"{session.session_id} end"], 1)
    assert len(index) == 3
    assert index.find(["0 prompt", "0 end"]) is None
    assert index.find(["4 prompt", "4 end"]) is sessions[4]
