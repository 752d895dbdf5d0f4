"""Small runs worked out by hand, one rule each; every step of the test profile takes one second."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.simulator.driver import CheckedRun
from tests.support import Scripted, requests_of, steady_profile

from bidkv.control import guards
from bidkv.policy import resolve
from bidkv.simulator import EngineConfig, SimulationError, simulate
from bidkv.simulator.run import Backend

ENGINE = EngineConfig(num_gpu_blocks=5, block_size=4, max_num_seqs=4, max_num_batched_tokens=64)


def test_the_tail_is_preempted_keeps_its_tokens_and_recomputes_them_in_one_prefill() -> None:
    books = CheckedRun(requests_of((4, 6), (4, 6)), resolve("preempt-evict"), ENGINE).run()
    assert books.steps == [
        [("r0", 4), ("r1", 4)],
        [("r0", 1), ("r1", 1)],  # both take their second block: all four are in use
        [("r0", 1), ("r1", 1)],
        [("r0", 1), ("r1", 1)],
        [("r0", 1), ("r1", 1)],
        [("r0", 1)],  # the ninth position needs a third block: r1 goes; no request enters in this step
        [("r1", 9)],  # four prompt tokens and the five generated ones
    ]
    assert books.preempted[5] == ["r1"]
    assert (books.preemptions, books.tokens_lost, books.recomputed_tokens) == (1, 8, 8)


def test_a_requester_at_the_tail_is_its_own_victim() -> None:
    config = replace(ENGINE, num_gpu_blocks=3)
    books = CheckedRun(requests_of((2, 5), (3, 4)), resolve("preempt-evict"), config).run()
    assert books.steps == [
        [("r0", 2), ("r1", 3)],
        [("r0", 1), ("r1", 1)],
        [("r0", 1)],  # r1 needs a second block and there is none
        [("r0", 1)],
        [("r0", 1)],
        [("r1", 5)],
        [("r1", 1)],
    ]
    assert books.preempted[2] == ["r1"]


def test_under_priorities_the_least_important_goes_wherever_it_stands() -> None:
    first, second = requests_of((4, 6), (4, 6), arrivals=[0.0, 0.5])
    config = replace(ENGINE, scheduling_policy="priority")
    books = CheckedRun([replace(first, priority=1), second], resolve("preempt-evict"), config).run()
    assert books.steps == [
        [("r0", 4)],
        [("r0", 1), ("r1", 4)],
        [("r0", 1), ("r1", 1)],
        [("r0", 1), ("r1", 1)],
        [("r0", 1), ("r1", 1)],
        [],  # r0 needs a block, is the least important itself, and the pass ends there
        [("r1", 1)],
        [("r1", 1)],
        [("r0", 9)],
    ]
    assert books.preempted[5] == ["r0"]


def test_a_policy_moves_its_victim_to_the_tail_and_the_survivors_keep_their_order() -> None:
    config = replace(ENGINE, num_gpu_blocks=6)
    run = CheckedRun(requests_of((3, 9), (8, 9), (3, 9)), resolve("largest-first"), config)
    books = run.run()
    assert books.steps[:3] == [
        [("r0", 3), ("r1", 8), ("r2", 3)],
        [("r0", 1), ("r1", 1), ("r2", 1)],  # one, three and one block: all five are in use
        [("r0", 1), ("r2", 1)],  # r0 and r2 need one block each; r1 holds most and goes
    ]
    assert books.named[2] == books.preempted[2] == ["r1"]
    assert run.control.counters.overrides >= 1


def test_ties_go_to_the_later_request() -> None:
    config = replace(ENGINE, num_gpu_blocks=6)
    books = CheckedRun(requests_of((3, 9), (8, 9), (3, 9)), resolve("lcf"), config).run()
    assert books.preempted[2] == ["r2"]  # r0 has as few computed tokens


def test_several_victims_wait_in_front_and_the_last_preempted_is_first() -> None:
    config = replace(ENGINE, num_gpu_blocks=8)
    requests = requests_of((13, 3), (4, 3), (4, 3), (4, 3))
    order = iter(["r2", "r1"])
    policy = Scripted(victim=lambda candidates, need, engine: named(candidates, next(order)))

    def named(candidates, name):  # type: ignore[no-untyped-def]
        return next(request for request in candidates if request.request_id == name)

    run = CheckedRun(requests, policy, config)
    run.step()
    assert [r.request_id for r in run.engine.running] == ["r0", "r1", "r2", "r3"]
    run.step()  # r1, r2 and r3 need a second block each and none is free
    assert run.books.preempted[1] == ["r2", "r1"]
    assert [r.request_id for r in run.engine.running] == ["r0", "r3"]
    assert [r.request_id for r in run.engine.waiting()] == ["r1", "r2"]


def test_a_prompt_is_cut_to_the_budget_left() -> None:
    config = EngineConfig(num_gpu_blocks=9, block_size=4, max_num_seqs=4, max_num_batched_tokens=4)
    books = CheckedRun(requests_of((10, 2), (3, 2)), resolve("preempt-evict"), config).run()
    assert books.steps == [
        [("r0", 4)],
        [("r0", 4)],
        [("r0", 2), ("r1", 2)],
        [("r0", 1), ("r1", 1)],
        [("r1", 1)],
    ]


def test_the_long_prefill_threshold_holds_only_in_company() -> None:
    config = EngineConfig(
        num_gpu_blocks=9,
        block_size=4,
        max_num_seqs=4,
        long_prefill_token_threshold=4,
        max_num_batched_tokens=16,
    )
    books = CheckedRun(requests_of((10, 2), (3, 3)), resolve("preempt-evict"), config).run()
    assert books.steps == [
        [("r0", 4), ("r1", 3)],
        [("r0", 4), ("r1", 1)],
        [("r0", 2), ("r1", 1)],
        [("r0", 1)],
    ]
    alone = CheckedRun(requests_of((10, 2)), resolve("preempt-evict"), config).run()
    assert alone.steps == [[("r0", 10)], [("r0", 1)]]


@pytest.mark.parametrize(
    ("whole", "steps"),
    [
        (True, [[("r0", 4)], [("r0", 1)], [("r1", 8)], [("r1", 5)]]),
        # Its first chunk fits, the rest does not: it enters, and is preempted when it asks for more.
        (False, [[("r0", 4), ("r1", 4)], [("r0", 1)], [("r1", 8)], [("r1", 5)]]),
    ],
)
def test_the_whole_sequence_must_fit_though_only_a_chunk_is_taken(
    whole: bool, steps: list[list[tuple[str, int]]]
) -> None:
    config = replace(ENGINE, max_num_batched_tokens=8, reserve_full_isl=whole)
    books = CheckedRun(requests_of((4, 2), (13, 1)), resolve("preempt-evict"), config).run()
    assert books.steps == steps
    assert books.preemptions == (0 if whole else 1)


def test_the_watermark_holds_only_while_something_runs() -> None:
    config = replace(ENGINE, num_gpu_blocks=9, watermark=0.5)  # int(0.5 * 9) = 4 of 8 usable blocks
    books = CheckedRun(requests_of((20, 2), (4, 2)), resolve("preempt-evict"), config).run()
    assert books.steps == [[("r0", 20)], [("r0", 1)], [("r1", 4)], [("r1", 1)]]


def test_the_head_of_the_queue_is_never_skipped() -> None:
    books = CheckedRun(requests_of((4, 3), (13, 1), (2, 1)), resolve("preempt-evict"), ENGINE).run()
    assert books.finished == ["r0", "r1", "r2"]
    assert books.steps == [[("r0", 4)], [("r0", 1)], [("r0", 1)], [("r1", 13)], [("r2", 2)]]


def test_a_shorter_prompt_overtakes_under_shortest_job_first() -> None:
    books = CheckedRun(requests_of((4, 3), (13, 1), (2, 1)), resolve("preempt-evict-sjf"), ENGINE).run()
    assert books.steps == [[("r2", 2), ("r0", 4)], [("r0", 1)], [("r0", 1)], [("r1", 13)]]


def test_no_more_than_max_num_seqs_run() -> None:
    config = replace(ENGINE, max_num_seqs=1)
    books = CheckedRun(requests_of((2, 2), (2, 2)), resolve("preempt-evict"), config).run()
    assert books.steps == [[("r0", 2)], [("r0", 1)], [("r1", 2)], [("r1", 1)]]


def test_a_known_prefix_is_not_computed_again() -> None:
    config = replace(ENGINE, num_gpu_blocks=9, enable_prefix_caching=True, prefix_chunk_tokens=8)
    requests = [replace(r, hash_ids=(7,)) for r in requests_of((9, 2), (9, 2))]
    books = CheckedRun(requests, resolve("preempt-evict"), config).run()
    # Rule 15: r0's blocks can be found as soon as they are allocated, in the same step.
    assert books.steps == [[("r0", 9), ("r1", 1)], [("r0", 1), ("r1", 1)]]
    other = [requests[0], replace(requests[1], hash_ids=(8,))]
    assert CheckedRun(other, resolve("preempt-evict"), config).run().steps[0] == [("r0", 9), ("r1", 9)]


def test_times_are_those_of_the_steps() -> None:
    requests = requests_of((4, 3), (4, 1), arrivals=[10.0, 10.5])
    result = simulate(requests, resolve("preempt-evict"), ENGINE, steady_profile())
    by_id = {record.request_id: record for record in result.records}
    assert (by_id["r0"].first_token_s, by_id["r0"].finish_s) == (11.0, 13.0)
    assert (by_id["r1"].first_token_s, by_id["r1"].finish_s) == (12.0, 12.0)
    assert by_id["r0"].tpot_s == 1.0
    assert result.span_s == 3.0
    # Blocks in use: 1, then 2 + 1, then 2; of four, over three seconds.
    assert result.summary()["kv_utilization_mean"] == pytest.approx((1 + 3 + 2) / 12)


def test_arrivals_out_of_order_name_the_request() -> None:
    requests = requests_of((4, 1), (4, 1), arrivals=[5.0, 4.0])
    with pytest.raises(SimulationError, match=r"request 'r1' arrives at 4\.0 s, before 'r0' at 5\.0 s"):
        simulate(requests, resolve("lcf"), ENGINE, steady_profile(), backend="python")


@pytest.mark.parametrize("backend", ["python", "auto"])
def test_a_name_that_occurs_twice_is_an_error(backend: Backend) -> None:
    requests = [replace(request, request_id="twin") for request in requests_of((4, 9), (4, 9))]
    with pytest.raises(SimulationError, match="request 'twin' occurs twice"):
        simulate(requests, resolve("lcf"), ENGINE, steady_profile(), backend=backend)


def test_a_circle_of_preemptions_is_an_error_and_no_hang() -> None:
    # Equal priority and arrival: the engine's own rule takes the first of equals, which is the furthest.
    config = EngineConfig(
        num_gpu_blocks=18,
        block_size=4,
        max_num_seqs=6,
        max_num_batched_tokens=72,
        scheduling_policy="priority",
        reserve_full_isl=False,
        long_prefill_token_threshold=7,
    )
    requests = requests_of((57, 9), (54, 9), (31, 9), (60, 9))
    with pytest.raises(SimulationError, match=r"no token came out in 20000 steps .* in a circle"):
        simulate(requests, resolve("preempt-evict"), config, steady_profile())


def test_a_rule_without_a_cap_cannot_preempt_in_a_circle_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each of the two is the largest when it lacks its last blocks, and starts over.
    config = EngineConfig(
        num_gpu_blocks=15,
        block_size=4,
        max_num_seqs=2,
        max_num_batched_tokens=12,
        reserve_full_isl=False,
        long_prefill_token_threshold=7,
    )
    requests = requests_of((47, 4), (44, 4))
    run = CheckedRun(requests, resolve("largest-first"), config)
    assert run.run().outputs == {"r0": 4, "r1": 4}
    assert run.control.counters.preemptions_by_policy == 2 * guards.FRUITLESS_PREEMPTIONS
    monkeypatch.setattr(guards, "FRUITLESS_PREEMPTIONS", 10**9)
    with pytest.raises(SimulationError, match="in a circle"):
        simulate(requests, resolve("largest-first"), config, steady_profile(), backend="python")


def test_nothing_to_run_is_an_empty_result() -> None:
    result = simulate([], resolve("lcf"), ENGINE, steady_profile())
    assert (list(result.records), result.totals.steps, result.simulated_s) == ([], 0, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_gpu_blocks": 1}, "num_gpu_blocks must be an integer >= 2 and <= 100,000,000, got 1"),
        ({"num_gpu_blocks": 4.0}, "num_gpu_blocks must be an integer >= 2 and <= 100,000,000, got 4.0"),
        ({"block_size": True}, "block_size must be an integer >= 1 and <= 1,000,000, got True"),
        ({"max_num_seqs": 0}, "max_num_seqs must be an integer >= 1 and <= 1,000,000, got 0"),
        (
            {"max_num_batched_tokens": 0},
            "max_num_batched_tokens must be an integer >= 1 and <= 1,000,000,000, got 0",
        ),
        ({"watermark": 1.0}, "watermark must be in [0.0, 1.0), got 1.0"),
        ({"watermark": float("nan")}, "watermark must be in [0.0, 1.0), got nan"),
        ({"max_model_len": 1}, "max_model_len must be an integer >= 2 and <= 1,000,000,000, got 1"),
        (
            {"long_prefill_token_threshold": -1},
            "long_prefill_token_threshold must be an integer >= 0 and <= 1,000,000,000, got -1",
        ),
        ({"scheduling_policy": "lifo"}, "scheduling_policy must be 'fcfs' or 'priority', got 'lifo'"),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 15},
            "max_num_batched_tokens must be >= max_model_len when chunked prefill is off, got 15 < 16",
        ),
    ],
)
def test_impossible_engines_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        replace(ENGINE, **change)  # type: ignore[arg-type]
    assert str(error.value) == message
