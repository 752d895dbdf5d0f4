from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.support import FakeRequest

from bidkv.policy import WaitingHeap, least


def _size(request: FakeRequest) -> int:
    """Of a hundred requests, in no order that keys have."""
    return int(request.request_id[1:]) * 37 % 100


class HeapAgainstSortedList(RuleBasedStateMachine):
    """A waiting heap does what a list, sorted anew for every question, would do."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = WaitingHeap()
        self.members: list[tuple[int, int, FakeRequest]] = []
        self.joined = 0
        self.requests = [FakeRequest(f"r{index}") for index in range(100)]

    def forget(self, request: FakeRequest) -> None:
        self.members = [entry for entry in self.members if entry[2] is not request]

    @rule(index=st.integers(0, 99), key=st.integers(0, 3))
    def push(self, index: int, key: int) -> None:
        request = self.requests[index]
        self.heap.push(request, key, _size(request))
        self.forget(request)
        self.joined += 1
        self.members.append((key, self.joined, request))

    @rule(indices=st.lists(st.integers(0, 99), max_size=90))
    def push_many(self, indices: list[int]) -> None:
        for index in indices:
            self.push(index, index % 3)

    @rule(indices=st.lists(st.integers(0, 99), max_size=90))
    def discard(self, indices: list[int]) -> None:
        for index in indices:
            self.heap.discard(self.requests[index])
            self.forget(self.requests[index])

    @rule(keys=st.lists(st.integers(0, 3), min_size=100, max_size=100))
    def reorder(self, keys: list[int]) -> None:
        key_of = dict(zip((request.request_id for request in self.requests), keys, strict=True))
        self.heap.reorder(lambda request: key_of[request.request_id])
        self.members = [(key_of[r.request_id], joined, r) for _, joined, r in self.members]

    @rule(most=st.integers(-1, 100), limit=st.integers(0, 12), choice=st.integers(1, 4))
    def first_fitting(self, most: int, limit: int, choice: int) -> None:
        fitting = [entry[2] for entry in sorted(self.members)[:limit] if _size(entry[2]) <= most]
        expected = max(fitting[:choice], key=_size, default=None)
        assert self.heap.first_fitting(most, limit, choice) is expected

    @invariant()
    def same_first_and_size(self) -> None:
        assert len(self.heap) == len(self.members)
        expected = min(self.members)[2] if self.members else None
        assert self.heap.first() is expected

    @invariant()
    def dead_entries_stay_few(self) -> None:
        assert len(self.heap._heap) <= max(64, 2 * len(self.members)) + 100


TestHeap = HeapAgainstSortedList.TestCase
TestHeap.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_least_takes_the_later_of_equals() -> None:
    requests = [FakeRequest("a", num_held_blocks=2), FakeRequest("b"), FakeRequest("c", num_held_blocks=5)]
    assert least(requests, lambda r: r.num_held_blocks).request_id == "b"
    assert least(requests[:1], lambda r: 0).request_id == "a"
