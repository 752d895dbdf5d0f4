"""Cost of the streaming estimators: one update, one state, and memory after a million events."""

import itertools
import pickle

from bidkv.stability import ArrivalRate, ForgettingMoments, QueueingController

EVENTS_A_ROUND = 1000


def warmed() -> QueueingController:
    controller = QueueingController()
    for i in range(100):
        controller.record_request_arrival(0.1 * i, 500, f"agent-{i % 7}")
        controller.record_request_completion(0.1 * i, 900.0, 40, f"agent-{i % 7}")
    return controller


def each(update):
    """A round of EVENTS_A_ROUND updates at ever later times; divide the round's time by that number."""
    times = itertools.count(1000)

    def round_of_updates():
        for _ in range(EVENTS_A_ROUND):
            update(next(times) * 0.1)

    return round_of_updates


def test_arrival_rate_update_x1000(benchmark):
    benchmark(each(ArrivalRate(60.0).update))


def test_forgetting_moments_update_x1000(benchmark):
    moments = ForgettingMoments(60.0)
    benchmark(each(lambda at: moments.update(3.0, at)))


def test_controller_arrival_x1000(benchmark):
    controller = warmed()
    benchmark(each(lambda at: controller.record_request_arrival(at, 500, "agent-1")))


def test_controller_completion_x1000(benchmark):
    controller = warmed()
    benchmark(each(lambda at: controller.record_request_completion(at, 900.0, 40, "agent-1")))


def test_controller_state(benchmark):
    controller = warmed()
    state = benchmark(controller.compute_stability_state, 500, 1000)
    assert state.mean_blocks_per_request == 40.0


def test_controller_decision(benchmark):
    controller = warmed()
    decision = benchmark(controller.decide, 500, 1000, 10)
    assert decision.feasible


def test_memory_after_a_million_events(benchmark):
    """Bytes of the controller's whole state after 10,000 and after 1,000,000 events, as extra_info."""
    controller = QueueingController()

    def events(first, last):
        for i in range(first, last):
            at, agent = 0.01 * i, f"agent-{i % 5000}"
            if i % 2:
                controller.record_request_arrival(at, 500, agent)
            else:
                controller.record_request_completion(at, 900.0, 40, agent)
        return len(pickle.dumps(controller))

    few = events(0, 10_000)
    many = benchmark.pedantic(events, args=(10_000, 1_000_000), rounds=1, iterations=1)
    benchmark.extra_info.update(bytes_after_10_000=few, bytes_after_1_000_000=many)
    assert many < 1.2 * few
