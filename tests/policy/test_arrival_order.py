"""The order of arrival beside another one, on a machine that serves one request at a time."""

from __future__ import annotations

import heapq
from random import Random

import pytest
from tests.policy.hand_set import request

from bidkv.policy.parts.arrival_order import ArrivalOrder


def serve(arrivals: list[tuple[float, float]], *, cheapest_first: bool) -> tuple[ArrivalOrder, float]:
    """Serve (arrival, cost) one after another; return the accounts and the longest wait."""
    order, waiting, longest_s = ArrivalOrder(), [], 0.0
    free_s, coming = 0.0, 0
    while coming < len(arrivals) or waiting:
        if not waiting:
            free_s = max(free_s, arrivals[coming][0])
        while coming < len(arrivals) and arrivals[coming][0] <= free_s:
            at_s, cost_s = arrivals[coming]
            order.arrive(request(f"r{coming}", at_s), cost_s)
            heapq.heappush(waiting, (cost_s if cheapest_first else at_s, coming))
            coming += 1
        _, index = heapq.heappop(waiting)
        at_s, cost_s = arrivals[index]
        order.leave(request(f"r{index}", at_s), free_s)
        longest_s = max(longest_s, free_s - at_s)
        free_s += cost_s
    return order, longest_s


def crowded(seed: int, count: int = 300) -> list[tuple[float, float]]:
    random, now_s, arrivals = Random(seed), 0.0, []
    for _ in range(count):
        now_s += random.expovariate(1.0)
        arrivals.append((now_s, random.uniform(0.1, 1.8)))
    return arrivals


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_order_the_longest_wait_is_that_of_the_order_of_arrival(seed: int) -> None:
    arrivals = crowded(seed)
    _, by_arrival_s = serve(arrivals, cheapest_first=False)
    order, cheapest_first_s = serve(arrivals, cheapest_first=True)
    assert cheapest_first_s > 2 * by_arrival_s
    assert order.longest_s(arrivals[-1][0]) == pytest.approx(by_arrival_s, rel=0.25)


def test_the_one_that_waited_longest_is_the_first_that_arrived_and_still_waits() -> None:
    order = ArrivalOrder()
    members = [request(f"r{i}", float(i)) for i in range(4)]
    for member in members:
        order.arrive(member, 1.0)
    order.leave(members[1], 5.0)
    assert order.first() is members[0]
    order.leave(members[0], 6.0)
    order.leave(members[0], 7.0)  # it is not new any more
    assert order.first() is members[2]
    for member in members:
        order.leave(member, 8.0)
    assert order.first() is None


def test_before_anything_entered_the_first_has_waited_longest() -> None:
    order = ArrivalOrder()
    order.arrive(request("r0", 2.0), 1.0)
    order.arrive(request("r1", 3.0), 1.0)
    assert order.longest_s(10.0) == 8.0


def test_the_last_in_a_queue_will_wait_for_most_of_what_is_before_it() -> None:
    order = ArrivalOrder()
    members = [request(f"r{i}", 0.0) for i in range(40)]
    for member in members:
        order.arrive(member, 3.0)
    for index, member in enumerate(members[:20]):
        order.leave(member, 2.0 * index)  # work of 3 s enters in 2 s
    assert order.longest_s(38.0) == pytest.approx(38.0 + 0.87 * 40.0, rel=0.05)


def test_a_second_of_work_takes_two_seconds_at_most_whatever_it_seemed_to_take() -> None:
    order = ArrivalOrder()
    members = [request(f"r{i}", 0.0) for i in range(40)]
    for index, member in enumerate(members):
        order.arrive(member, 0.1 if index < 20 else 3.0)  # the first were thought to be much cheaper
    for index, member in enumerate(members[:20]):
        order.leave(member, 2.0 * index)
    assert order.longest_s(38.0) == pytest.approx(38.0 + 0.87 * 2 * 20 * 3.0)


def test_long_waits_of_long_ago_are_forgotten() -> None:
    order = ArrivalOrder()
    order.arrive(request("slow", 0.0), 1.0)
    order.leave(request("slow", 0.0), 500.0)
    for index in range(3000):
        at_s = 1000.0 + index
        order.arrive(request(f"r{index}", at_s), 1.0)
        order.leave(request(f"r{index}", at_s), at_s)
        assert order.longest_s(at_s) == (500.0 if index < 511 else 0.0)


def test_the_oldest_come_in_order_of_arrival_with_their_costs() -> None:
    order = ArrivalOrder()
    members = [request(f"r{i}", float(i)) for i in range(6)]
    for cost_s, member in enumerate(members):
        order.arrive(member, float(cost_s))
    for index in (0, 3):
        order.leave(members[index], 6.0)
    assert [(member.request_id, cost_s) for member, cost_s in order.oldest(3)] == [
        ("r1", 1.0),
        ("r2", 2.0),
        ("r4", 4.0),
    ]


def test_the_pace_is_known_after_five_seconds_with_a_queue_and_is_at_most_two() -> None:
    order = ArrivalOrder()
    members = [request(f"r{i}", 0.0) for i in range(40)]
    for member in members:
        order.arrive(member, 2.0)
    order.leave(members[0], 0.0)
    order.leave(members[1], 5.0)
    assert order.pace == 0.0
    order.leave(members[2], 5.1)
    assert order.pace == pytest.approx(5.1 / 4.0, rel=0.01)
    for index in range(3, 30):
        order.leave(members[index], 10.0 * index)
    assert order.pace == 2.0
