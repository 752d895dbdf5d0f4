"""Retention re-orders vLLM's free queue: whatever happens around it, the queue and the pool stay whole."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.harness import (
    AsyncScheduler,
    Scheduler,
    build_scheduler,
    make_request,
    prepare_hashes,
    run_case,
    worker_output,
)
from tests.vllm.ours import build_ours, run_ours
from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id
from vllm.v1.request import RequestStatus

from bidkv.adapters.vllm import prefix_cache as prefix_cache_module
from bidkv.adapters.vllm.prefix_cache import (
    FreeQueueError,
    VllmPrefixCache,
    check_free_queue,
    read_unsupported_cache,
)
from bidkv.protocol.requests import WorkloadRequest

BLOCK = 16
SHAPE = EngineShape(num_blocks=25, max_num_seqs=8, max_num_batched_tokens=512, prefix_caching=True)


def free_ids(pool: Any) -> list[int]:
    """The free queue from front to back, read by its links."""
    queue = pool.free_block_queue
    ids, block = [], queue.fake_free_list_head.next_free_block
    while block is not queue.fake_free_list_tail:
        ids.append(block.block_id)
        block = block.next_free_block
    return ids


def check_pool(pool: Any) -> list[int]:
    """Every invariant of the pool; return the free queue."""
    queue = pool.free_block_queue
    forward = free_ids(pool)
    backward, block = [], queue.fake_free_list_tail.prev_free_block
    while block is not queue.fake_free_list_head:
        backward.append(block.block_id)
        block = block.prev_free_block
    assert forward == backward[::-1]
    assert len(set(forward)) == len(forward) == queue.num_free_blocks, "a block is lost or doubled"
    free = set(forward)
    for block in pool.blocks:
        if block.is_null:
            assert block.block_id not in free
            continue
        assert (block.block_id in free) == (block.ref_cnt == 0), "free while referenced, or lost"
        if block.block_id not in free:
            assert block.prev_free_block is block.next_free_block is None
        if block.block_hash is not None:
            assert pool.cached_block_hash_to_block.get_one_block(block.block_hash) is not None
    return forward


class Sequence:
    """A made-up request: the hashes of its blocks, and those it holds."""

    def __init__(self, hashes: list[BlockHash], blocks: list[Any]) -> None:
        self.block_hashes = hashes
        self.blocks = blocks


class PoolActor:
    """Does at random to a real pool what a scheduler does, with retention in between."""

    def __init__(self, seed: int, num_blocks: int = 14) -> None:
        self.random = random.Random(seed)
        shape = EngineShape(num_blocks, 8, 512, prefix_caching=True)
        self.scheduler: Any = build_scheduler(shape)
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.cache = VllmPrefixCache(self.scheduler)
        self.held: list[Sequence] = []
        self.pasts: list[list[BlockHash]] = []
        self.moved = 0

    def hashes(self) -> list[BlockHash]:
        """A chain that often shares its start with another one."""
        names, parent = [], ""
        for _ in range(self.random.randint(1, 6)):
            parent += str(self.random.randrange(2))
            names.append(BlockHash(parent.encode().ljust(32, b".")))
        return names

    def act(self) -> None:
        """One operation, then every invariant."""
        choice = self.random.random()
        if choice < 0.35:
            self.admit()
        elif choice < 0.62:
            self.finish()
        elif choice < 0.94:
            self.drop()
        elif choice < 0.97:
            self.pool.evict_blocks({self.random.randrange(1, self.pool.num_gpu_blocks)})
        else:
            self.reset()
        check_pool(self.pool)

    def admit(self) -> None:
        hashes = self.hashes()
        hit = []
        for key in hashes:
            found = self.pool.get_cached_block(key, [0])
            if not found:
                break
            hit.append(found[0])
        missing = len(hashes) - len(hit) + self.random.randrange(2)
        # As allocate_slots: cached blocks that are free count as taken too.
        if missing + sum(block.ref_cnt == 0 for block in hit) > self.pool.get_num_free_blocks():
            return
        self.pool.touch(hit)
        blocks = hit + (self.pool.get_new_blocks(missing) if missing else [])
        made = Sequence(hashes, blocks)
        request = SimpleNamespace(block_hashes=hashes, all_token_ids=[], lora_request=None)
        self.pool.cache_full_blocks(
            request=request,
            blocks=blocks,
            num_cached_blocks=len(hit),
            num_full_blocks=len(hashes),
            block_size=BLOCK,
            kv_cache_group_id=0,
        )
        self.held.append(made)
        self.pasts.append(hashes)

    def finish(self) -> None:
        if self.held:
            done = self.held.pop(self.random.randrange(len(self.held)))
            self.pool.free_blocks(reversed(done.blocks))

    def drop(self) -> None:
        """Retention, of a past as it is or of keys in a muddle."""
        keys = list(self.random.choice(self.pasts)) if self.pasts else self.hashes()
        if self.random.random() < 0.3:  # the last blocks alone
            keys = keys[self.random.randrange(len(keys)) :]
        if self.random.random() < 0.2:
            keys += self.hashes() + keys[:2]
            self.random.shuffle(keys)
        referenced = {block.block_id for block in self.pool.blocks if block.ref_cnt}
        expected = []
        for key in reversed(keys):
            copies = [
                block for block in self.pool.blocks if block.block_hash and block.block_hash[:-4] == key
            ]
            in_map = self.pool.cached_block_hash_to_block._cache.get(make_block_hash_with_group_id(key, 0))
            order = list(in_map) if isinstance(in_map, dict) else [block.block_id for block in copies]
            assert sorted(order) == sorted(block.block_id for block in copies)
            for block_id in reversed(order):
                if self.pool.blocks[block_id].ref_cnt == 0 and block_id not in expected:
                    expected.append(block_id)
        before = free_ids(self.pool)
        assert self.cache.reuse_first(keys) == len(expected)
        after = free_ids(self.pool)
        rest = [block_id for block_id in before if block_id not in expected]
        assert after == expected + rest, "the last block first, all others in their order"
        assert not referenced & set(after)
        self.moved += len(expected)

    def reset(self) -> None:
        if not self.held:
            assert self.pool.reset_prefix_cache()


def test_the_pool_is_whole_after_every_one_of_many_random_operations(campaign, note_figures):
    prepare_hashes()
    operations = 1_000_000 if campaign else 4_000
    moved = done = 0
    for seed in range(operations // 1000):
        actor = PoolActor(seed, num_blocks=8 + seed % 9)
        for _ in range(1000):
            actor.act()
        moved += actor.moved
        done += 1000
        while actor.held:
            actor.finish()
        assert len(check_pool(actor.pool)) == actor.pool.num_gpu_blocks - 1, "all blocks are back"
    note_figures(f"{done} random operations on the real block pool, {moved} blocks moved; exceptions: 0")
    assert moved > operations / 10


# --- what is not as expected ---------------------------------------------------------------------
def fill(scheduler: Any, names: str = "abc", tokens: int = 60) -> None:
    """Serve a few requests, so that their blocks are free and cached."""
    requests = tuple(WorkloadRequest(name, 0.0, tokens, 5, max_tokens=5) for name in names)
    case = Case(SHAPE, requests)
    for index, request in enumerate(requests):
        scheduler.add_request(make_request(request, index, case))
    while scheduler.has_unfinished_requests():
        output = scheduler.schedule()
        scheduler.update_from_output(output, worker_output(scheduler, output))


def keys_of(scheduler: Any) -> list[Any]:
    return [
        block.block_hash[:-4] for block in scheduler.kv_cache_manager.block_pool.blocks if block.block_hash
    ]


def damage_link(pool: Any, block: Any) -> None:
    block.next_free_block.prev_free_block = pool.null_block


def damage_holder(pool: Any, block: Any) -> None:
    """A block that no request holds and that is in no queue."""
    pool.free_block_queue.remove(block)


def damage_count(pool: Any, block: Any) -> None:
    pool.free_block_queue.num_free_blocks = 1


def damage_hash(pool: Any, block: Any) -> None:
    block.reset_hash()


@pytest.mark.parametrize("damage", [damage_link, damage_holder, damage_count, damage_hash])
def test_an_unexpected_queue_is_refused_before_anything_is_moved(damage):
    scheduler: Any = build_scheduler(SHAPE)
    cache = VllmPrefixCache(scheduler)
    fill(scheduler)
    pool = scheduler.kv_cache_manager.block_pool
    keys = keys_of(scheduler)
    damage(pool, pool.get_cached_block(keys[-1], [0])[0])
    links = [(block.prev_free_block, block.next_free_block) for block in pool.blocks]
    with pytest.raises(FreeQueueError):
        cache.reuse_first(keys)
    assert [(block.prev_free_block, block.next_free_block) for block in pool.blocks] == links
    if damage is not damage_hash:
        with pytest.raises(FreeQueueError):
            check_free_queue(pool)


def test_a_fault_in_the_queue_switches_retention_off_once_and_the_engine_goes_on(caplog):
    case = random_case(4, prefix_caching=True)
    scheduler = build_ours(case, "preempt-evict")
    controller = scheduler.bidkv.controller

    def refuse(keys: Any) -> int:
        raise FreeQueueError("a version that changed the queue")

    sessions = controller._sessions
    controller._keep_books(refuse, ())
    assert sessions is not None
    assert controller._sessions is None
    assert run_case(case, scheduler=scheduler, clock=scheduler.bidkv_clock) == run_case(case)
    assert controller.counters.session_failures == 1
    assert caplog.text.count("the session accounts failed") == 1


def test_a_version_that_changed_the_queue_leaves_sessions_alone(monkeypatch, caplog):
    def refuse(pool: Any) -> None:
        raise FreeQueueError("free queue: 'Queue' object has no attribute 'fake_free_list_head'")

    monkeypatch.setattr(prefix_cache_module, "check_free_queue", refuse)
    caplog.set_level("INFO", logger="bidkv")
    case = random_case(4, prefix_caching=True)
    scheduler = build_ours(case, "lcf")
    assert scheduler.bidkv.glue.engine.sessions is None
    assert caplog.text.count("sessions are left to vLLM's own prefix cache: free queue: 'Queue' object") == 1
    run_case(case, scheduler=scheduler, clock=scheduler.bidkv_clock)
    assert scheduler.bidkv.controller.counters.completions == len(case.requests)


def test_caches_that_are_not_understood_are_left_alone():
    scheduler: Any = build_scheduler(SHAPE)
    assert read_unsupported_cache(scheduler) is None
    scheduler.connector = object()
    scheduler.vllm_config.kv_transfer_config = SimpleNamespace(kv_role="kv_consumer")
    assert "another engine" in str(read_unsupported_cache(scheduler))
    scheduler.vllm_config.kv_transfer_config.kv_role = "kv_both"
    assert read_unsupported_cache(scheduler) is None
    scheduler.connector = None
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    scheduler.kv_cache_manager.coordinator.single_type_managers = (*managers, *managers)
    assert "2 groups" in str(read_unsupported_cache(scheduler))
    off: Any = build_scheduler(EngineShape(25, 8, 512))
    assert "prefix caching is off" in str(read_unsupported_cache(off))


def test_without_sessions_in_traffic_and_policy_no_request_is_matched():
    """Nothing is looked up for requests that no client puts into a session, unless metrics show it."""
    case = random_case(6, prefix_caching=True)
    _, scheduler = run_ours(case, "fair")
    sessions = scheduler.bidkv.controller.sessions
    assert not sessions.finds_by_prefix
    assert sessions.figures.prompt_tokens == 0
    assert not sessions.idle


# --- what the engine is asked --------------------------------------------------------------------
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_cached_tokens_are_those_the_engine_finds_at_admission(base):
    """Asked just before each admission, for every request that waits."""
    asked = hits = 0
    for seed in range(8):
        case = random_case(seed, prefix_caching=True)

        def look(scheduler: Any, number: int) -> None:
            nonlocal asked, hits
            engine = scheduler.bidkv.glue.engine
            for view in engine.waiting():
                tokens = engine.cached_tokens(view)
                _, expected, *_ = scheduler.kv_cache_manager.get_computed_blocks(view._request)
                assert tokens == expected
                asked += 1
                hits += tokens > 0

        _, scheduler = run_ours(case, "preempt-evict", base, before_step=look)
        check_pool(scheduler.kv_cache_manager.block_pool)
    assert asked > 100
    assert hits > 20


def test_asking_counts_as_no_query_and_touches_no_block():
    scheduler: Any = build_scheduler(SHAPE)
    fill(scheduler)
    cache = VllmPrefixCache(scheduler)
    pool = scheduler.kv_cache_manager.block_pool
    case = Case(SHAPE, (WorkloadRequest("a", 0.0, 60, 5),))
    before = free_ids(pool)
    view = SimpleNamespace(_request=make_request(case.requests[0], 0, case))
    assert cache.cached_tokens(view) == 48
    assert free_ids(pool) == before
    view._request.skip_reading_prefix_cache = True
    assert cache.cached_tokens(view) == 0


def test_a_reset_of_the_prefix_cache_empties_the_books():
    case = random_case(6, prefix_caching=True)
    scheduler = build_ours(case, "preempt-evict")
    sessions = scheduler.bidkv.controller.sessions
    sessions.finds_by_prefix = True
    run_case(case, scheduler=scheduler, clock=scheduler.bidkv_clock)
    assert sessions.retained_blocks > 0
    assert scheduler.reset_prefix_cache()
    assert sessions.retained_blocks == 0
    assert not sessions.idle
    check_pool(scheduler.kv_cache_manager.block_pool)


def test_a_reset_with_running_requests_keeps_the_books_true():
    case = random_case(6, prefix_caching=True)
    resets: list[bool] = []

    def reset(scheduler: Any, number: int) -> None:
        scheduler.bidkv.controller.sessions.finds_by_prefix = True
        if number % 20 == 10:
            resets.append(scheduler.reset_prefix_cache(reset_running_requests=True))
            check_pool(scheduler.kv_cache_manager.block_pool)

    _, scheduler = run_ours(case, "preempt-evict", before_step=reset)
    assert any(resets)
    assert scheduler.bidkv.glue.attached
    assert scheduler.bidkv.controller.counters.session_failures == 0


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_aborts_leave_no_session_behind(base):
    case = random_case(9, prefix_caching=True)

    def abort(scheduler: Any, number: int) -> None:
        scheduler.bidkv.controller.sessions.finds_by_prefix = True
        if number % 5 == 3 and scheduler.requests:
            victim = sorted(scheduler.requests)[number % len(scheduler.requests)]
            scheduler.finish_requests(victim, RequestStatus.FINISHED_ABORTED)

    _, scheduler = run_ours(case, "preempt-evict", base, before_step=abort)
    sessions = scheduler.bidkv.controller._sessions
    assert not sessions._by_request
    assert not sessions._held
    assert scheduler.bidkv.controller.counters.session_failures == 0
