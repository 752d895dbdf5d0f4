"""Several batches in flight, several engines: what parallelism changes for the adapter, without a model.

Tensor parallelism changes nothing here: one scheduler decides for all ranks, whose workers only compute.
Pipeline parallelism lets as many batches be in flight as there are stages. Data parallelism is one scheduler
for each replica, in a process of its own.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from tests.vllm.cases import Case, random_case
from tests.vllm.exports import count_decisions, read_metrics
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler, make_request, worker_output

from bidkv.adapters.vllm.schedulers import BidKVSchedulerMixin, scheduler_class


def make_arguments(case: Case, base: type[Any], *, stages: int = 1, rank: int = 0) -> dict[str, Any]:
    """What vLLM makes a scheduler of; the parallel configuration of a CPU build is written over."""

    class Captured(base):
        def __init__(self, **arguments: Any) -> None:
            self.arguments = arguments

    captured: Any = build_scheduler(case.shape, Captured)
    parallel = captured.arguments["vllm_config"].parallel_config
    parallel.pipeline_parallel_size = stages
    parallel.data_parallel_index = rank
    return captured.arguments


def serve(scheduler: Any, case: Case, in_flight: int) -> tuple[list[tuple[Any, ...]], list[list[str]]]:
    """Serve a case with so many batches in flight; return each step's tokens and its preemptions."""
    preempted: list[str] = []
    original = scheduler._preempt_request

    def preempt(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        original(request, *args, **kwargs)

    scheduler._preempt_request = preempt
    for index, request in enumerate(case.requests):
        scheduler.add_request(make_request(request, index, case))
    batches: deque[Any] = deque()
    steps, victims = [], []
    while scheduler.has_unfinished_requests():
        assert len(steps) < 20_000
        output = scheduler.schedule()
        steps.append(tuple(output.num_scheduled_tokens.items()))
        victims.append(list(preempted))
        preempted.clear()
        batches.append((output, worker_output(scheduler, output)))
        if len(batches) >= in_flight or not output.num_scheduled_tokens:
            scheduler.update_from_output(*batches.popleft())
    while batches:
        scheduler.update_from_output(*batches.popleft())
    free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    assert free == case.shape.num_blocks - 1, "blocks are lost"
    return steps, victims


STAGES = [(Scheduler, 2, 2), (Scheduler, 4, 4), (AsyncScheduler, 2, 3)]
"""A scheduler, pipeline stages, and the batches that vLLM then keeps in flight."""


@pytest.fixture(autouse=True)
def _strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDKV_STRATEGY", "preempt-evict")


def build(case: Case, base: type[Any], stages: int) -> Any:
    ours = scheduler_class(asynchronous=base is AsyncScheduler)
    scheduler: Any = ours(**make_arguments(case, base, stages=stages))
    assert isinstance(scheduler, BidKVSchedulerMixin)
    scheduler.bidkv.controller._time_budget_s = None  # a busy machine must not switch the policy off
    return scheduler


@pytest.mark.parametrize(("base", "stages", "in_flight"), STAGES)
def test_with_pipeline_stages_the_engines_own_order_is_kept(base, stages, in_flight):
    preemptions = 0
    for seed in range(4):
        case = random_case(seed)
        own = serve(base(**make_arguments(case, base, stages=stages)), case, in_flight)
        assert serve(build(case, base, stages), case, in_flight) == own
        preemptions += sum(map(len, own[1]))
    assert preemptions > 50


@pytest.mark.parametrize("policy", ["lcf", "fair"])
@pytest.mark.parametrize(("base", "stages", "in_flight"), STAGES)
def test_with_stages_the_named_are_preempted(base, stages, in_flight, policy, monkeypatch, note_figures):
    """In their order and nobody else; who is named and spared is counted."""
    monkeypatch.setenv("BIDKV_STRATEGY", policy)
    preemptions = named = 0
    for seed in range(6):
        case = random_case(seed)
        scheduler = build(case, base, stages)
        names: dict[int, list[str]] = {}

        def write(victims: Any, scheduler: Any = scheduler, names: dict[int, list[str]] = names) -> None:
            names[scheduler.current_step] = [victim.request_id for victim in victims]

        scheduler.bidkv.glue.on_victims = write
        _, victims = serve(scheduler, case, in_flight)
        for number, taken in enumerate(victims):
            assert taken == names.get(number, [])[: len(taken)], f"seed {seed}, step {number}"
            preemptions += len(taken)
        named += sum(map(len, names.values()))
        counters = scheduler.bidkv.controller.counters
        assert counters.completions == len(case.requests)
        assert counters.failures == counters.preemptions_by_engine == 0
    note_figures(
        f"{base.__name__}, {stages} stages, {policy}: {preemptions} preempted, "
        f"{named - preemptions} more named"
    )
    assert preemptions > 50


def test_two_engines_of_one_process_have_ports_and_logs_of_their_own(monkeypatch, tmp_path, free_port_pair):
    monkeypatch.setenv("BIDKV_STRATEGY", "lcf")
    monkeypatch.setenv("BIDKV_METRICS_PORT", str(free_port_pair))
    monkeypatch.setenv("BIDKV_DECISION_LOG", str(tmp_path / "decisions.jsonl"))
    case = random_case(1)
    ours = scheduler_class(asynchronous=False)
    engines: list[Any] = [ours(**make_arguments(case, Scheduler)) for _ in range(2)]
    try:
        for scheduler in engines:
            scheduler.bidkv.controller._time_budget_s = None
            serve(scheduler, case, 1)
        for number in range(len(engines)):
            found = read_metrics(free_port_pair + number)
            assert found["bidkv_engine_number"] == number
            assert found["bidkv_completions_total"] == len(case.requests)
            assert found["bidkv_preemptions_by_policy_total"] > 0
    finally:
        for scheduler in engines:
            scheduler.bidkv.metrics.close()
    logs = [tmp_path / "decisions.jsonl", tmp_path / "decisions.rank1.jsonl"]
    decisions = [count_decisions(log) for log in logs]
    assert decisions[0] == decisions[1] > 0


def test_a_data_parallel_rank_shifts_the_port_and_names_the_log(monkeypatch, tmp_path, free_port_pair):
    monkeypatch.setenv("BIDKV_METRICS_PORT", str(free_port_pair))
    monkeypatch.setenv("BIDKV_DECISION_LOG", str(tmp_path / "decisions.jsonl"))
    case = random_case(1)
    scheduler: Any = scheduler_class(asynchronous=False)(**make_arguments(case, Scheduler, rank=1))
    try:
        assert read_metrics(free_port_pair + 1)["bidkv_engine_number"] == 1
    finally:
        scheduler.bidkv.metrics.close()
    assert (tmp_path / "decisions.rank1.jsonl").exists()
    assert not (tmp_path / "decisions.jsonl").exists()
