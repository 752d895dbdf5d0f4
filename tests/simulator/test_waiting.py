"""The waiting queues of simulated engines."""

from __future__ import annotations

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.request import SimRequest
from bidkv.simulator.waiting import PriorityQueue


def made(name: str, arrival_s: float) -> SimRequest:
    return SimRequest(WorkloadRequest(name, arrival_s, 10, 10), 100)


def test_a_request_with_the_id_of_one_that_left_the_middle_does_not_take_its_place() -> None:
    queue = PriorityQueue()
    first, given_up, second = made("a", 0.0), made("b", 1.0), made("c", 2.0)
    for request in (first, given_up, second):
        queue.append(request)
    queue.remove(given_up)
    again = made("b", 3.0)
    queue.append(again)
    order = []
    while len(queue):
        order.append(queue.head())
        queue.remove(order[-1])
    assert order == [first, second, again]
