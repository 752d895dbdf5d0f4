"""Who enters, and who is preempted to let a more important request in, on the real scheduler."""

import random

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler, make_req
from sglang.srt.managers.schedule_policy import PrefillAdder

from bidkv.adapters.sglang.memory import available_tokens
from bidkv.policy import available, resolve
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import Policy
from workloads import attach, random_requests, run_with_arrivals

pytestmark = pytest.mark.sglang


def _admissions(scheduler) -> list[str]:
    """Requests in the order of their first prefill."""
    seen: dict[str, None] = {}
    for kind, rids in scheduler.step_log:
        if kind == "extend":
            seen.update(dict.fromkeys(rids))
    return list(seen)


def test_the_shortest_prompt_enters_first_and_nothing_is_lost(hooks):
    scheduler = ModelFreeScheduler(tokens=200, max_running=2)
    attach(hooks, scheduler, resolve("preempt-evict-sjf"))
    lengths = {"a": 60, "b": 10, "c": 30, "d": 5, "e": 20}
    for rid, length in lengths.items():
        scheduler.submit(make_req(rid, [9] * length, 12, ignore_eos=False))
    scheduler.run()
    assert _admissions(scheduler) == ["d", "b", "e", "c", "a"]


@pytest.mark.parametrize("tree", ["unified-rust", "radix", "disabled"])
@pytest.mark.parametrize("chunked", [None, 16])
@pytest.mark.parametrize("overlap", [False, True])
def test_every_request_completes_whoever_enters_first(hooks, tree, chunked, overlap):
    rng = random.Random(3)
    scheduler = ModelFreeScheduler(tokens=320, tree=tree, chunked_prefill_size=chunked, overlap=overlap)
    glue = attach(hooks, scheduler, resolve("preempt-evict-sjf"))
    requests = random_requests(rng, 40, pool=320)
    run_with_arrivals(scheduler, requests, rng)
    assert all(req.finished() for req in requests)
    assert scheduler.aborted == []
    free = available_tokens(scheduler.token_to_kv_pool_allocator, scheduler.tree_cache)
    assert free == scheduler.max_total_num_tokens
    counters = glue.controller.counters
    assert (counters.arrivals, counters.completions, counters.failures) == (40, 40, 0)
    assert counters.admissions == 40 + counters.preemptions_by_engine
    assert glue.engine.known() == []


def test_the_queue_has_its_own_order_back_after_every_pass(hooks):
    rng = random.Random(8)
    scheduler = ModelFreeScheduler(tokens=320)
    glue = attach(hooks, scheduler, resolve("preempt-evict-sjf"))
    joined: list = []
    moved = []
    original = glue.arrange_queue

    def arrange_queue(queue, running_batch):
        before = list(queue)
        original(queue, running_batch)
        moved.append(before != list(queue))

    glue.arrange_queue = arrange_queue
    for req in random_requests(rng, 40, pool=320):
        scheduler.submit(req)
    while not scheduler.idle():
        joined += [req for req in scheduler.waiting_queue if req not in joined]
        scheduler.step()
        queue = scheduler.waiting_queue
        # First come, first served, and who was preempted is behind: nobody overtakes within the queue.
        fresh = [req for req in queue if req.retraction_count == 0]
        assert fresh == [req for req in joined if req in fresh]
    assert sum(moved) > 10


class _Gate(Policy):
    """Admits only while `open`, in the engine's own order."""

    name = "gate"
    open = True

    def select_next(self, engine):
        return engine.waiting()[0] if self.open else None


def test_a_shut_gate_admits_nobody_while_something_runs_and_never_stops_the_engine(hooks):
    policy = _Gate()
    scheduler = ModelFreeScheduler(tokens=400)
    attach(hooks, scheduler, policy)
    policy.open = False
    for rid in "abcd":
        scheduler.submit(make_req(rid, [ord(rid)] * 10, 15, ignore_eos=False))
        scheduler.step()  # every arrival asks the policy again, while the one before has just entered
    scheduler.run()
    # One at a time: each enters an empty engine.
    assert [rids for kind, rids in scheduler.step_log if kind == "extend"] == [("a",), ("b",), ("c",), ("d",)]
    assert all(len(rids) == 1 for _, rids in scheduler.step_log)


class _Reserve(Policy):
    name = "reserve"

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def reserve_blocks(self, engine):
        return self.blocks


@pytest.mark.parametrize("tree", ["unified-rust", "radix", "disabled"])
def test_an_admission_leaves_the_reserve_free(hooks, tree):
    def least_free_after_an_admission(policy):
        scheduler = ModelFreeScheduler(tokens=320, tree=tree)
        if policy is not None:
            attach(hooks, scheduler, policy)
        free_then = []
        rng = random.Random(2)
        requests = random_requests(rng, 40, pool=320)
        for req in requests:
            scheduler.submit(req)
        while not scheduler.idle():
            running = len(scheduler.running_batch.reqs)
            batch = scheduler.step()
            if batch is not None and scheduler.step_log[-1][0] == "extend" and running:
                free_then.append(available_tokens(scheduler.token_to_kv_pool_allocator, scheduler.tree_cache))
        assert all(req.finished() for req in requests)
        hooks.glue = None
        return min(free_then)

    assert least_free_after_an_admission(None) < 60
    assert least_free_after_an_admission(_Reserve(60)) >= 60


class _Latest(Policy):
    """Preempts who arrived last or, `reverse`d, first."""

    name = "latest"

    def __init__(self, *, reverse: bool = False) -> None:
        self.sign = -1 if reverse else 1

    def select_victim(self, candidates, need_blocks, engine):
        return max(candidates, key=lambda request: self.sign * int(request.request_id[1:]))


def _preempted_for_the_important(hooks, policy):
    """Three of low, one of middling priority run; an important one wants in, into the last place."""
    scheduler = ModelFreeScheduler(tokens=2000, max_running=4, priority_scheduling=True)
    if policy is not None:
        attach(hooks, scheduler, WithinClasses(policy))
    for number, priority in enumerate([1, 1, 5, 1]):
        scheduler.submit(make_req(f"r{number}", [number + 10] * 10, 40, ignore_eos=False, priority=priority))
        scheduler.step()
    entered = {req.rid: req.time_stats.wait_queue_entry_time for req in scheduler.running_batch.reqs}
    scheduler.submit(make_req("vip", [5] * 10, 10, ignore_eos=False, priority=9))
    scheduler.step()
    gone = [req.rid for req in scheduler.waiting_queue]
    stayed = {req.rid: req.time_stats.wait_queue_entry_time for req in scheduler.running_batch.reqs}
    for rid, time in stayed.items():
        assert time == entered.get(rid, time)  # what carried the choice is put back
    scheduler.run()
    assert scheduler.aborted == []
    return gone


def test_a_policy_chooses_among_the_least_important_only(hooks):
    assert hasattr(PrefillAdder.preempt_to_schedule, "__wrapped__")
    assert _preempted_for_the_important(hooks, None) == ["r3"]  # upstream: who entered the queue last
    hooks.glue = None
    assert _preempted_for_the_important(hooks, _Latest()) == ["r3"]
    assert hooks.glue.controller.counters.preemptions_by_policy == 1
    assert _preempted_for_the_important(hooks, _Latest(reverse=True)) == ["r0"]


@pytest.mark.parametrize("overlap", [False, True])
def test_priorities_and_policies_under_pressure(hooks, overlap):
    rng = random.Random(6)
    scheduler = ModelFreeScheduler(tokens=320, max_running=5, priority_scheduling=True, overlap=overlap)
    glue = attach(hooks, scheduler, WithinClasses(resolve("largest-first")))
    requests = random_requests(rng, 40, pool=320, priorities=True)
    run_with_arrivals(scheduler, requests, rng)
    assert all(req.finished() for req in requests)
    assert scheduler.aborted == []
    counters = glue.controller.counters
    assert counters.failures == 0
    assert counters.preemptions_by_policy > 5
    assert counters.admissions == 40 + counters.preemptions_by_policy + counters.preemptions_by_engine


def test_an_aborted_request_is_forgotten(hooks):
    from sglang.srt.managers.io_struct import AbortReq

    scheduler = ModelFreeScheduler(tokens=300, max_running=1)
    scheduler.mm_receiver = None
    glue = attach(hooks, scheduler, resolve("preempt-evict-sjf"))
    for rid in "ab":
        scheduler.submit(make_req(rid, [3] * 10, 20, ignore_eos=False))
    scheduler.step()
    scheduler.abort_request(AbortReq(rid="b"))
    assert [view.request_id for view in glue.engine.known()] == ["a"]
    assert glue.controller.counters.aborts == 1
    scheduler.run()
    assert glue.engine.known() == []
    assert glue.controller.counters.completions == 1


def test_a_policy_hears_of_requests_that_an_operator_retracted(hooks):
    from sglang.srt.managers.schedule_batch import retract_all

    scheduler = ModelFreeScheduler(tokens=400)
    glue = attach(hooks, scheduler, resolve("preempt-evict-sjf"))
    for rid, length in (("a", 30), ("b", 10), ("c", 20)):
        scheduler.submit(make_req(rid, [ord(rid)] * length, 20, ignore_eos=False))
    while len(scheduler.running_batch.reqs) < 3:
        scheduler.step()
    running = list(scheduler.running_batch.reqs)
    # What SGLang's `pause_generation` does in its retract mode.
    retract_all(
        reqs=running,
        req_to_token_pool=scheduler.req_to_token_pool,
        token_to_kv_pool_allocator=scheduler.token_to_kv_pool_allocator,
        tree_cache=scheduler.tree_cache,
        hisparse_coordinator=None,
    )
    scheduler.running_batch.reqs = []
    for req in running:
        scheduler._add_request_to_queue(req)
    scheduler.last_batch = None
    before = len(scheduler.step_log)
    scheduler.run()
    kind, rids = scheduler.step_log[before]
    assert (kind, rids) == ("extend", ("b", "c", "a"))
    assert glue.controller.counters.preemptions_by_engine == 3
    assert all(req.finished() for req in running)


@pytest.mark.parametrize("spec", [name for name in available() if not resolve(name).clairvoyant])
def test_every_policy_of_the_catalog_serves_every_request(hooks, spec):
    rng = random.Random(12)
    scheduler = ModelFreeScheduler(tokens=320, chunked_prefill_size=64)
    glue = attach(hooks, scheduler, resolve(spec))
    requests = random_requests(rng, 40, pool=320)
    run_with_arrivals(scheduler, requests, rng)
    assert all(req.finished() for req in requests)
    assert scheduler.aborted == []
    assert glue.controller.counters.failures == 0
    assert glue.controller.counters.completions == 40
