"""The simulated SGLang: its rules S1 to S7 worked out by hand, its books, its place in `simulate`.

That the rules are SGLang's is shown against the real scheduler in tests/sglang/test_simulator.py.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome
from bidkv.simulator import SglangConfig, SglangStepEngine, SimRequest, SimulationError, simulate

PROFILE = load_profile("h100-llama3.1-8b")


def engine(**options: Any) -> SglangStepEngine:
    spec = options.pop("policy", "preempt-evict")
    return SglangStepEngine(SglangConfig(**options), PROFILE, Controller(resolve(spec), time_budget_s=None))


def submit(
    replica: SglangStepEngine, name: str, prompt: int, output: int, cap: int | None = None
) -> SimRequest:
    source = WorkloadRequest(name, replica.now_s, prompt, output, max_tokens=cap)
    request = SimRequest(source, replica.config.model_len)
    replica.submit(request)
    return request


def batch(replica: SglangStepEngine) -> dict[str, int]:
    replica.step()
    return {request.request_id: tokens for request, tokens in replica.scheduled}


def test_prefill_goes_before_decode_and_joins_it_afterwards() -> None:
    replica = engine(max_total_tokens=1000)
    submit(replica, "a", 10, 5, 5)
    assert batch(replica) == {"a": 10}
    submit(replica, "b", 20, 5, 5)
    assert batch(replica) == {"b": 20}  # S2: a does not decode meanwhile
    assert batch(replica) == {"a": 1, "b": 1}  # S1


def test_a_long_prompt_is_prefilled_in_chunks() -> None:
    replica = engine(max_total_tokens=1000, chunked_prefill_size=16)
    submit(replica, "a", 40, 2, 2)
    submit(replica, "b", 5, 2, 2)
    assert batch(replica) == {"a": 16}
    assert replica.num_prefilling == 1
    assert batch(replica) == {"a": 16}
    assert batch(replica) == {"a": 8, "b": 5}
    assert batch(replica) == {"a": 1, "b": 1}
    assert replica.idle


def test_an_admission_reserves_its_output_and_part_of_everybody_elses() -> None:
    # S3: prompt + 10 of output + 1 page must be below the 70 free tokens less 0.7 of a's 39 to come: 42.7.
    replica = engine(max_total_tokens=100)
    submit(replica, "a", 30, 40, 40)
    assert batch(replica) == {"a": 30}
    submit(replica, "b", 31, 10, 10)
    assert batch(replica) == {"b": 31}
    tight = engine(max_total_tokens=100)
    submit(tight, "a", 30, 40, 40)
    assert batch(tight) == {"a": 30}
    submit(tight, "b", 32, 10, 10)
    assert batch(tight) == {"a": 1}


def test_a_retraction_takes_the_youngest_output_raises_the_ratio_and_requeues_at_the_tail() -> None:
    replica = engine(max_total_tokens=60, schedule_conservativeness=0.01, clip_max_new_tokens=1)
    first = submit(replica, "first", 20, 30, 35)
    batch(replica)
    batch(replica)
    late, longer = submit(replica, "late", 10, 30, 40), submit(replica, "longer", 14, 30, 40)
    while not replica.preempted:
        before = replica.new_token_ratio
        batch(replica)
    assert replica.preempted == [longer]  # S4: as few tokens as late, but a longer prompt
    assert [request.request_id for request in replica.waiting()] == ["longer"]
    generated = first.num_output_tokens + late.num_output_tokens - 2  # the batch gave each one more
    assert replica.new_token_ratio == min(1.0, (generated + 20 * 2) / (35 + 40 + 1)) > before  # S5
    assert longer.num_output_tokens > 0  # S6: what was generated is kept
    assert longer.num_computed_tokens == 0


def test_the_ratio_decays_with_every_decode_batch_and_is_forgotten_when_idle() -> None:
    replica = engine(max_total_tokens=1000)
    submit(replica, "a", 10, 5, 5)
    batch(replica)
    assert replica.new_token_ratio == 0.7
    batch(replica)
    assert replica.new_token_ratio == pytest.approx(0.7 - (0.7 - 0.7 * 0.14) / 600)
    while not replica.idle:
        batch(replica)
    replica.wait_until(replica.now_s + 1.0)
    submit(replica, "b", 10, 5, 5)
    assert replica.new_token_ratio == 0.7


def test_a_policys_victims_go_first_and_the_rest_keeps_its_order() -> None:
    replica = engine(
        max_total_tokens=60, schedule_conservativeness=0.01, clip_max_new_tokens=1, policy="largest-first"
    )
    first = submit(replica, "first", 20, 30, 35)
    batch(replica)
    submit(replica, "late", 10, 30, 40)
    submit(replica, "longer", 14, 30, 40)
    while not replica.preempted:
        batch(replica)
    assert replica.preempted == [first]


def test_the_shortest_prompt_enters_first_where_the_policy_says_so() -> None:
    replica = engine(max_total_tokens=200, max_running_requests=1, policy="preempt-evict-sjf")
    for name, prompt in (("a", 30), ("b", 10), ("c", 20)):
        submit(replica, name, prompt, 1, 1)
    assert [batch(replica) for _ in range(3)] == [{"b": 10}, {"c": 20}, {"a": 30}]


def _workload(seed: int, count: int) -> list[WorkloadRequest]:
    rng = random.Random(seed)
    requests = []
    time_s = 0.0
    for number in range(count):
        time_s += rng.expovariate(20.0)
        cap = rng.randrange(5, 200)
        output = rng.randrange(1, cap + 1)
        requests.append(WorkloadRequest(f"r{number}", time_s, rng.randrange(1, 150), output, max_tokens=cap))
    return requests


@pytest.mark.parametrize("page_size", [1, 8])
@pytest.mark.parametrize("chunk", [None, 64])
def test_books_balance_after_every_step(page_size: int, chunk: int | None) -> None:
    replica = engine(
        max_total_tokens=480,
        page_size=page_size,
        chunked_prefill_size=chunk,
        max_running_requests=8,
        clip_max_new_tokens=8,
        schedule_conservativeness=0.1,
    )
    waiting = [SimRequest(source, replica.config.model_len) for source in _workload(1, 60)]
    done = []
    while waiting or not replica.idle:
        if waiting:
            replica.submit(waiting.pop(0))
        replica.step()
        done += replica.finished
        running = replica.running
        assert replica.free_blocks + sum(r.num_held_blocks for r in running) == replica.num_blocks
        assert replica.free_blocks >= 0
        assert replica.num_running == len(running) <= 8
        for request in running:
            assert request.num_held_blocks == -(-request.num_computed_tokens // page_size)
    assert len(done) == 60
    assert replica.free_blocks == replica.num_blocks
    assert replica.num_preemptions > 5
    computed_once = sum(request.num_tokens - 1 for request in done)
    assert replica.num_scheduled_tokens == computed_once + replica.books.recomputed_tokens


def test_simulate_runs_it_and_every_request_completes() -> None:
    requests = _workload(2, 80)
    config = SglangConfig(480, max_running_requests=8, clip_max_new_tokens=8, schedule_conservativeness=0.1)
    results = [
        simulate(requests, resolve(spec), config, PROFILE) for spec in ("preempt-evict", "slack_aware")
    ]
    for result in results:
        assert {record.outcome for record in result.records} == {Outcome.COMPLETED}
        assert len(result.records) == 80
        assert result.totals.preemptions > 0
    again = simulate(requests, resolve("preempt-evict"), config, PROFILE)
    assert again.records == results[0].records


def test_who_does_not_fit_even_alone_fails_and_the_others_go_on() -> None:
    # S7 cannot happen to a sequence within the model's length, so the pool is made smaller than promised.
    replica = engine(max_total_tokens=60, clip_max_new_tokens=1, schedule_conservativeness=0.01)
    submit(replica, "a", 20, 30, 35)
    batch(replica)
    replica._free_blocks = 0
    batch(replica)
    assert [request.request_id for request in replica.aborted] == ["a"]
    assert replica.idle


def test_an_uncapped_request_enters_however_long_its_prompt() -> None:
    """SGLang clips its output to what the empty pool holds beside the prompt, a page and a token less."""
    config = SglangConfig(112, page_size=16)
    assert config.longest_prompt == 80
    (record,) = simulate(
        [WorkloadRequest("a", 0.0, 60, 500)], resolve("preempt-evict"), config, PROFILE
    ).records
    assert record.outcome is Outcome.COMPLETED
    assert record.output_tokens == 112 - 64 - 16 - 1
    longest = simulate(
        [WorkloadRequest("a", 0.0, 80, 500)], resolve("preempt-evict"), config, PROFILE
    ).records
    assert longest[0].output_tokens == 112 - 80 - 16 - 1


def test_prompts_too_long_for_the_pool_are_rejected() -> None:
    (record,) = simulate(
        [WorkloadRequest("a", 0.0, 98, 1)], resolve("preempt-evict"), SglangConfig(100), PROFILE
    ).records
    assert record.outcome is Outcome.REJECTED


def test_the_compiled_backend_is_vllms_alone() -> None:
    with pytest.raises(ValueError, match="covers simulated vLLM engines alone"):
        simulate([], resolve("preempt-evict"), SglangConfig(100), PROFILE, backend="compiled")
    with pytest.raises(SimulationError, match="arrivals must be in order"):
        simulate(
            [WorkloadRequest("a", 1.0, 5, 1), WorkloadRequest("b", 0.0, 5, 1)],
            resolve("preempt-evict"),
            SglangConfig(100),
            PROFILE,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_total_tokens": 3}, "max_total_tokens must be an integer >= 4, got 3"),
        ({"max_total_tokens": True}, "max_total_tokens"),
        ({"max_total_tokens": 100, "page_size": 16}, "multiple of page_size 16, got 100"),
        ({"max_total_tokens": 96, "page_size": 16, "chunked_prefill_size": 24}, "chunked_prefill_size"),
        ({"max_total_tokens": 100, "context_length": 3}, "context_length must be an integer >= 4"),
        ({"max_total_tokens": 100, "schedule_conservativeness": -1.0}, "schedule_conservativeness"),
        ({"max_total_tokens": 100, "init_new_token_ratio": float("nan")}, "init_new_token_ratio"),
    ],
)
def test_impossible_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SglangConfig(**options)
