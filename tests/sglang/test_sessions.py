"""Sessions between two turns, on the real scheduler with the real prefix tree."""

import random
from array import array
from collections import deque
from dataclasses import dataclass, field

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler, make_req
from tests.faulty_policies import Writes, members
from tiny_model import VOCABULARY

from bidkv.adapters.sglang.engine_view import SglangEngineView
from bidkv.adapters.sglang.glue import SglangGlue
from bidkv.adapters.sglang.prefix_cache import read_unsupported_cache
from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable, SessionView

pytestmark = pytest.mark.sglang

PAGE = 16
POOL = 4096


@dataclass
class _Client:
    """One conversation in closed loop; every turn repeats everything before it."""

    name: str
    turns: list[tuple[int, int]]
    tokens: list[int]
    gap_steps: int
    draw: random.Random
    told: bool
    done: int = 0
    live: object = None
    next_step: int = 0
    outputs: list[list[int]] = field(default_factory=list)

    def submit(self, scheduler):
        new, answer = self.turns[self.done]
        self.tokens += [self.draw.randrange(3, VOCABULARY) for _ in range(new)]
        custom = {}
        if self.told:
            custom = {"bidkv_session_id": self.name, "bidkv_session_end": self.done + 1 == len(self.turns)}
        req = make_req(f"{self.name}.{self.done}", list(self.tokens), answer, custom=custom or None)
        self.live = req
        scheduler.submit(req)

    def look(self, now):
        if self.live is not None and self.live.finished():
            answer = list(self.live.output_ids)
            self.outputs.append(answer)
            self.tokens += answer
            self.live = None
            self.done += 1
            self.next_step = now + self.gap_steps


def _clients(count, *, told=True, seed=1, gap_steps=20):
    draw = random.Random(seed)
    head = [draw.randrange(3, VOCABULARY) for _ in range(64)]
    return [
        _Client(
            f"s{number}",
            [(draw.randrange(30, 90), draw.randrange(8, 24)) for _ in range(draw.randrange(6, 10))],
            list(head),
            gap_steps,
            random.Random(f"{seed}.{number}"),
            told,
        )
        for number in range(count)
    ]


class _Clock:
    """A step takes a fixed time and some more for each token, as on a GPU."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s

    def ran(self, tokens):
        self.now_s += 0.005 + 2e-4 * tokens


def _attach(hooks, scheduler, policy):
    clock = _Clock()
    engine = SglangEngineView(scheduler, clock)
    hooks.glue = SglangGlue(scheduler, engine, Controller(resolve(policy), time_budget_s=None))
    return hooks.glue, clock


def _serve(scheduler, clock, clients, at_once=30, each_step=lambda: None):
    """Run `at_once` conversations at a time until all have ended; return the tokens computed for prompts."""
    left, alive = deque(clients), []
    computed = 0
    for _ in range(100_000):
        while left and len(alive) < at_once:
            alive.append(left.popleft())
        for client in alive:
            client.look(scheduler.now)
        alive = [client for client in alive if client.done < len(client.turns)]
        for client in alive:
            if client.live is None and scheduler.now >= client.next_step:
                client.submit(scheduler)
        batch = scheduler.step()
        if batch is not None:
            prompts = batch.forward_mode.is_extend()
            tokens = int(batch.extend_num_tokens) if prompts else len(batch.reqs)
            clock.ran(tokens)
            computed += tokens * prompts
        each_step()
        if not left and not alive:
            return computed
    raise AssertionError("the sessions do not end")


def _make(tree="unified-python", page_size=PAGE, **options):
    return ModelFreeScheduler(tokens=POOL, tree=tree, page_size=page_size, **options)


def _sound(scheduler):
    core = scheduler.tree_cache.tree_core
    core.sanity_check([], [])
    free = scheduler.token_to_kv_pool_allocator.available_size()
    assert free + scheduler.tree_cache.evictable_size() == POOL


def _run(hooks, policy, *, told, overlap):
    scheduler = _make(overlap=overlap)
    glue, clock = _attach(hooks, scheduler, policy)
    clients = _clients(40, told=told)
    computed = _serve(scheduler, clock, clients)
    scheduler.run()
    _sound(scheduler)
    controller = glue.controller
    assert controller.counters.failures == controller.counters.session_failures == 0
    return computed, [client.outputs for client in clients], controller


@pytest.mark.parametrize("overlap", [False, True])
def test_kept_sessions_are_not_computed_again(hooks, overlap):
    alone, outputs, _ = _run(hooks, "preempt-evict", told=True, overlap=overlap)
    kept, same, told = _run(hooks, "sessions", told=True, overlap=overlap)
    unnamed, still_same, found = _run(hooks, "sessions", told=False, overlap=overlap)
    print(f"prompt tokens computed: alone {alone}, told {kept}, found {unnamed}")
    assert same == outputs == still_same
    assert told.counters.session_drops > 0
    assert found.counters.session_drops > 0
    figures = told.sessions.figures, found.sessions.figures
    # Every turn but the first of each session is found by its past.
    assert figures[1].turns_found == figures[0].turns_told - 40
    # A token takes ten times as long here as on a GPU, so what a token costs has to be learned.
    assert kept < 0.6 * alone
    assert alone - unnamed > 0.9 * (alone - kept)


def test_the_books_agree_with_the_tree(hooks):
    scheduler = _make()
    glue, clock = _attach(hooks, scheduler, "sessions")
    ledger = glue.controller.sessions
    cache = glue.engine.cache
    seen = []

    def compare():
        for session in list(ledger.idle.values()):
            client = by_name[session.session_id]
            if client.live is not None:
                continue  # it has ended, but its client has not looked yet
            # What SGLang would find of its past now, in whole pages.
            real = cache._match(*_past(client)) // PAGE
            seen.append((session.cached_blocks, real))

    clients = _clients(40)
    by_name = {client.name: client for client in clients}
    _serve(scheduler, clock, clients, each_step=compare)
    wrong = [(believed, real) for believed, real in seen if believed != real]
    print(f"{len(seen)} looks, {len(wrong)} differ")
    assert len(seen) > 1_000
    assert len(wrong) <= 0.01 * len(seen), wrong[:10]


def _past(client):
    tokens = array("q", client.tokens)
    return tokens, len(tokens) - 1, (None, None)


def _cached_request(engine, scheduler, name, tokens, answer=4, **custom):
    req = make_req(name, tokens, answer, custom=custom or None)
    scheduler.submit(req)
    scheduler.run()
    return engine.get_view(req)


def test_what_a_dropped_session_alone_uses_goes_first_and_nothing_else(hooks):
    draw = random.Random(3)
    scheduler = _make()
    glue, _ = _attach(hooks, scheduler, "preempt-evict")
    cache = glue.engine.cache
    head = [draw.randrange(3, VOCABULARY) for _ in range(160)]
    texts = {
        name: head + [draw.randrange(3, VOCABULARY) for _ in range(320)] for name in ("old", "mid", "new")
    }
    keys = {}
    for name, tokens in texts.items():
        view = _cached_request(glue.engine, scheduler, name, tokens)
        keys[name] = cache.block_keys(view)
    core = scheduler.tree_cache.tree_core
    before = _order_of_eviction(scheduler, keys)
    assert before == ["old", "mid", "new"]
    # Of the last one only the pages that it does not share.
    assert cache.reuse_first(keys["new"][10:]) == len(keys["new"]) - 10
    core.sanity_check([], [])
    assert _order_of_eviction(scheduler, keys) == ["new", "old", "mid"]
    assert all(cache.is_cached(key) for key in keys["old"] + keys["new"])
    # A node that also holds other pages stays, and so does a page that is not cached.
    assert cache.reuse_first(keys["mid"][15:]) == 0
    gone = len(keys["new"]) - 10
    _evict(scheduler, gone * PAGE)
    assert [cache.is_cached(keys[name][-1]) for name in ("old", "mid", "new")] == [True, True, False]
    assert cache.is_cached(keys["new"][9])
    assert cache.reuse_first(keys["new"][10:]) == 0
    _sound(scheduler)


def _order_of_eviction(scheduler, keys):
    core, full = scheduler.tree_cache.tree_core, scheduler.tree_cache.tree_core.components[0]
    full._ensure_eviction_strategy()
    leaves = sorted(core.evictable_device_leaves, key=full.session_ref_eviction_strategy)
    names = {bytes(key[-1].page): name for name, key in keys.items()}
    return [names[array("q", leaf.key.raw_token_ids()[-PAGE:]).tobytes()] for leaf in leaves]


def _evict(scheduler, tokens):
    """Let SGLang evict as it does when an allocation lacks memory."""
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    scheduler.tree_cache.evict(EvictParams(num_tokens=tokens))


@pytest.mark.parametrize(
    ("tree", "page_size", "reason"),
    [
        ("unified-rust", PAGE, "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND=python"),
        ("radix", PAGE, "RadixCache"),
        ("disabled", PAGE, "the prefix cache is off"),
        ("unified-python", 1, "--page-size 16"),
    ],
)
def test_where_retention_is_left_to_sglang_the_reason_is_said(hooks, tree, page_size, reason):
    scheduler = _make(tree, page_size)
    assert reason in read_unsupported_cache(scheduler)
    glue, _ = _attach(hooks, scheduler, "sessions")
    assert reason in glue.no_retention
    assert glue.engine.sessions is None
    assert not glue.controller.drops_idle


def test_a_flushed_cache_leaves_no_idle_session(hooks):
    scheduler = _make()
    glue, _ = _attach(hooks, scheduler, "sessions")
    _cached_request(glue.engine, scheduler, "a", list(range(3, 103)), bidkv_session_id="a")
    assert list(glue.controller.sessions.idle) == ["a"]
    hooks.cache_flushed(False, scheduler)  # refused, since requests were alive
    assert list(glue.controller.sessions.idle) == ["a"]
    scheduler.tree_cache.reset()
    hooks.cache_flushed(True, scheduler)
    assert not glue.controller.sessions.idle


def test_a_policy_that_writes_to_everything_it_is_shown_changes_nothing(hooks):
    served = []
    policy = Writes()
    for shown in (policy, Writes(writes=False)):
        scheduler = _make()
        clock = _Clock()
        engine = SglangEngineView(scheduler, clock)
        hooks.glue = SglangGlue(scheduler, engine, Controller(shown, time_budget_s=None))
        clients = _clients(20)
        served.append((_serve(scheduler, clock, clients), scheduler.now, clock.now_s))
        assert hooks.glue.controller.counters.failures == 0
    assert served[0] == served[1]
    protocols = (EngineView, RequestView, SessionTable, SessionView)
    assert policy.tried == {f"{each.__name__}.{name}" for each in protocols for name in members(each)}
    assert policy.written == set()
