"""What holds after every step of any run, whichever policy decides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulator.driver import CheckedRun
from tests.support import Scripted, requests_of, steady_profile, workloads

from bidkv.control.guards import FRUITLESS_PREEMPTIONS
from bidkv.policy import available, resolve
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import Outcome
from bidkv.simulator import EngineConfig, simulate


@st.composite
def engines(draw: st.DrawFn, *, prefix_caching: bool = False) -> EngineConfig:
    """Small engines under pressure: a few blocks, a few sequences, a budget that cuts prompts into chunks."""
    chunked = draw(st.booleans()) if not prefix_caching else True
    blocks = draw(st.integers(6, 40))
    size = draw(st.sampled_from([1, 4, 16]))
    return EngineConfig(
        num_gpu_blocks=blocks,
        block_size=size,
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(4, 80)) if chunked else blocks * size,
        max_model_len=draw(st.sampled_from([None, 30, 70])),
        enable_chunked_prefill=chunked,
        enable_prefix_caching=prefix_caching,
        prefix_chunk_tokens=8,
        watermark=draw(st.sampled_from([0.0, 0.1])),
        scheduling_policy=draw(st.sampled_from(["fcfs", "priority"])),
        reserve_full_isl=draw(st.booleans()),
        long_prefill_token_threshold=draw(st.sampled_from([0, 7])),
    )


def expected_outputs(requests: list[WorkloadRequest], config: EngineConfig) -> dict[str, int]:
    """Output lengths to reach: the true length, cut by the sender's cap and the model's limit."""
    limit = config.model_len
    return {
        r.request_id: min(r.output_tokens, r.max_tokens or limit, limit - r.prompt_tokens)
        for r in requests
        if r.prompt_tokens < limit
    }


@pytest.mark.parametrize("name", available())
@given(requests=workloads(), config=engines())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_step_keeps_the_invariants_and_every_request_gets_its_output(
    name: str, requests: list[WorkloadRequest], config: EngineConfig
) -> None:
    books = CheckedRun(requests, resolve(name), config).run()
    assert books.outputs == expected_outputs(requests, config)


@given(requests=workloads(), config=engines(), name=st.sampled_from(available()))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_three_sets_of_books_agree(requests: list[WorkloadRequest], config: EngineConfig, name: str) -> None:
    run = CheckedRun(requests, resolve(name), config)
    books = run.run()
    counters, engine = run.control.counters, run.engine
    assert engine.books.recomputed_tokens == counters.recomputed_tokens == books.recomputed_tokens
    assert engine.num_scheduled_tokens == counters.scheduled_tokens == books.scheduled_tokens
    assert engine.num_steps == counters.steps == len(books.steps)
    by_whom = counters.preemptions_by_policy + counters.preemptions_by_engine
    assert engine.num_preemptions == by_whom == books.preemptions
    assert counters.tokens_lost == books.tokens_lost
    assert counters.arrivals == counters.completions == len(books.finished)
    assert counters.admissions == books.admissions == len(books.finished) + books.preemptions
    assert (counters.aborts, counters.failures) == (0, 0)


@given(requests=workloads(), config=engines(prefix_caching=True), name=st.sampled_from(available()))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_invariants_hold_with_shared_prefixes(
    requests: list[WorkloadRequest], config: EngineConfig, name: str
) -> None:
    shared = [replace(r, hash_ids=tuple(range(r.prompt_tokens // 8 + 1))) for r in requests]
    run = CheckedRun(shared, resolve(name), config)
    books = run.run()
    assert books.outputs == expected_outputs(requests, config)
    assert (
        run.engine.books.recomputed_tokens
        == run.control.counters.recomputed_tokens
        == books.recomputed_tokens
    )


@given(requests=workloads(), config=engines(), reserve=st.integers(0, 5))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_reserve_is_kept_at_every_admission_while_something_runs(
    requests: list[WorkloadRequest], config: EngineConfig, reserve: int
) -> None:
    run = CheckedRun(requests, Scripted(reserve=lambda engine: reserve), config, reserve=reserve)
    assert run.run().outputs == expected_outputs(requests, config)
    assert run.control.counters.failures == 0


@given(requests=workloads(), config=engines(), name=st.sampled_from(available()))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_victims_go_in_the_order_they_were_chosen_and_nobody_else_goes(
    requests: list[WorkloadRequest], config: EngineConfig, name: str
) -> None:
    policy = resolve(name)
    bound = policy.preemption_cap or FRUITLESS_PREEMPTIONS
    books = CheckedRun(requests, policy, config).run()
    suffered: Counter[str] = Counter()
    for named, preempted in zip(books.named, books.preempted, strict=True):
        if named:
            assert preempted[: len(named)] == named[: len(preempted)]
            # The engine took others only because no request was left that the policy might name.
            assert all(suffered[request_id] >= bound for request_id in preempted[len(named) :])
        suffered.update(preempted)


@given(requests=workloads(), config=engines(), name=st.sampled_from(available()))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_run_is_deterministic(requests: list[WorkloadRequest], config: EngineConfig, name: str) -> None:
    first, second = (
        simulate(requests, resolve(name), config, steady_profile(), backend="python").summary()
        for _ in range(2)
    )
    del first["wall_s"], second["wall_s"]
    assert first == second


@given(requests=workloads(), config=engines(), name=st.sampled_from(available()))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_simulate_tells_what_stepping_does(
    requests: list[WorkloadRequest], config: EngineConfig, name: str
) -> None:
    result = simulate(requests, resolve(name), config, steady_profile(), backend="python")
    run = CheckedRun(requests, resolve(name), config)
    books = run.run()
    assert [r.request_id for r in result.completed] == books.finished
    assert result.totals.steps == len(books.steps)
    assert result.totals.scheduled_tokens == books.scheduled_tokens
    assert result.totals.recomputed_tokens == books.recomputed_tokens
    assert result.totals.preemptions == books.preemptions == sum(r.preemptions for r in result.records)
    assert result.notes["control"] == run.control.counters.as_dict()
    for record in result.completed:
        assert record.first_token_s is not None
        assert record.finish_s is not None
        assert record.arrival_s < record.first_token_s <= record.finish_s


@given(requests=workloads(), config=engines(), name=st.sampled_from(available()))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_with_plenty_of_memory_a_policy_that_keeps_the_admission_order_changes_nothing(
    requests: list[WorkloadRequest], config: EngineConfig, name: str
) -> None:
    plenty = replace(config, num_gpu_blocks=5_000, max_num_batched_tokens=100_000)
    plain = CheckedRun(requests, resolve("preempt-evict"), plenty)
    other = CheckedRun(requests, resolve(name), plenty)
    if other.control.chooses_next:
        return  # it does not choose victims
    assert other.run().steps == plain.run().steps
    assert other.control.counters.decisions == 0


@given(requests=workloads(max_prompt=300))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_prompt_that_can_never_fit_is_rejected_and_the_rest_completes(
    requests: list[WorkloadRequest],
) -> None:
    config = EngineConfig(num_gpu_blocks=9, block_size=16, max_num_seqs=4, max_num_batched_tokens=64)
    result = simulate(requests, resolve("lcf"), config, steady_profile())
    for record in result.records:
        if record.prompt_tokens >= 128:
            assert record.outcome is Outcome.REJECTED
            assert f"prompt of {record.prompt_tokens} tokens" in record.detail
            assert "at most 127" in record.detail
            assert record.finish_s is None
        else:
            assert record.outcome is Outcome.COMPLETED
    assert len(result.records) == len(requests)


def test_a_gate_that_a_policy_never_opens_does_not_stop_the_engine() -> None:
    requests = requests_of((10, 5), (10, 5), (10, 5))
    config = EngineConfig(num_gpu_blocks=20, max_num_seqs=4)
    run = CheckedRun(requests, Scripted(following=lambda engine: None), config)
    books = run.run()
    assert books.finished == ["r0", "r1", "r2"]
    assert all(len(scheduled) == 1 for scheduled in books.steps)  # one after the other
    assert run.control.counters.failures == 0
