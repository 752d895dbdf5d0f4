"""Who is retracted, on the real ScheduleBatch with the real prefix trees, in hundreds of random states."""

import random

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler
from sglang.srt.managers.schedule_batch import ScheduleBatch
from tests.faulty_policies import Writes

from bidkv.adapters.sglang.memory import available_tokens, freed_tokens, solely_locked_tokens
from bidkv.policy import resolve
from bidkv.protocol.policy import Policy
from bidkv.protocol.read_only import write_facts
from workloads import attach, random_requests, run_with_arrivals

pytestmark = pytest.mark.sglang

TREES = ["unified-rust", "unified-python", "radix", "disabled"]


class _Recorder(Policy):
    """Asks another policy and writes down what it said."""

    name = "recorder"

    def __init__(self, inner: Policy) -> None:
        self.inner = inner
        self.named: list[str] = []

    def select_victim(self, candidates, need_blocks, engine):
        victim = self.inner.select_victim(candidates, need_blocks, engine)
        self.named.append(victim.request_id)
        return victim


class _Watch:
    """Around every real retraction: what upstream would have done, who went, what memory came back."""

    def __init__(self, monkeypatch, hooks, scheduler) -> None:
        self.states: list[dict] = []
        hooked = ScheduleBatch.retract_decode
        upstream_order = ScheduleBatch._get_decode_retraction_order.__wrapped__

        def retract_decode(batch):
            tree, allocator = scheduler.tree_cache, scheduler.token_to_kv_pool_allocator
            before = available_tokens(allocator, tree)
            upstream = [batch.reqs[i].rid for i in reversed(upstream_order(batch.reqs))]
            promised = {req.rid: freed_tokens(req, tree, scheduler.page_size) for req in batch.reqs}
            asked = len(self.named())
            retracted, ratio, aborted = hooked(batch)
            self.states.append(
                {
                    "upstream": upstream,
                    "retracted": [req.rid for req in retracted],
                    "kept": [req.rid for req in batch.reqs],
                    "named": self.named()[asked:],
                    "promised": promised,
                    "gained": available_tokens(allocator, tree) - before,
                    "aborted": [req.rid for req in aborted],
                }
            )
            return retracted, ratio, aborted

        monkeypatch.setattr(ScheduleBatch, "retract_decode", retract_decode)
        self._hooks = hooks

    def named(self) -> list[str]:
        glue = self._hooks.glue
        return getattr(glue.controller.policy, "named", []) if glue is not None else []


def _run(monkeypatch, hooks, policy, seed, tree, *, overlap=False, page_size=1, requests=60, pool=320):
    rng = random.Random(seed)
    scheduler = ModelFreeScheduler(tokens=pool, tree=tree, overlap=overlap, page_size=page_size)
    if policy is not None:
        attach(hooks, scheduler, policy)
    watch = _Watch(monkeypatch, hooks, scheduler)
    reqs = random_requests(rng, requests, pool=pool)
    run_with_arrivals(scheduler, reqs, rng)
    return scheduler, reqs, watch.states


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("spec", ["bidkv", "largest-first", "static-random", "slack_aware"])
def test_exactly_the_named_victims_go_in_the_order_they_were_named(monkeypatch, hooks, tree, spec):
    states = []
    for seed in range(3):
        scheduler, reqs, seen = _run(
            monkeypatch, hooks, _Recorder(resolve(spec)), seed, tree, overlap=seed % 2 == 1
        )
        assert all(req.finished() for req in reqs)
        assert scheduler.aborted == []
        assert hooks.glue.controller.counters.failures == 0
        states += seen
        monkeypatch.undo()
    assert len(states) >= 30
    for state in states:
        # The policy may name one more than SGLang turns out to need; it never retracts another.
        assert state["retracted"] == state["named"][: len(state["retracted"])]
        assert state["aborted"] == []
        # Everybody else keeps SGLang's own order.
        gone = set(state["retracted"])
        spared = [rid for rid in state["named"] if rid not in gone]
        others = [rid for rid in reversed(state["upstream"]) if rid not in set(state["named"])]
        assert state["kept"] == others + spared[::-1]
    different = sum(state["upstream"][: len(state["retracted"])] != state["retracted"] for state in states)
    assert different > len(states) / 2


def test_a_policy_that_writes_to_all_it_is_shown_changes_nothing(monkeypatch, hooks):
    policy = Writes()
    _, written_to, after_writing = _run(monkeypatch, hooks, policy, 0, "radix")
    monkeypatch.undo()
    _, looked_at, after_looking = _run(monkeypatch, hooks, Writes(writes=False), 0, "radix")
    assert len(after_looking) > 10, "nothing was retracted"
    assert after_writing == after_looking
    assert [req.output_ids for req in written_to] == [req.output_ids for req in looked_at]
    assert "RequestView.num_computed_tokens" in policy.tried
    assert policy.written == set()


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("page_size", [1, 4])
def test_promised_memory_is_what_a_retraction_gives_back(monkeypatch, hooks, tree, page_size):
    exact = 0
    for seed in range(4):
        _, _, states = _run(
            monkeypatch, hooks, _Recorder(resolve("static-random")), seed, tree, page_size=page_size, pool=400
        )
        monkeypatch.undo()
        for state in states:
            promised = sum(state["promised"][rid] for rid in state["retracted"])
            if len(state["retracted"]) == 1:
                assert state["gained"] == promised
                exact += 1
            else:  # what only the victims shared comes back as well
                assert state["gained"] >= promised
    assert exact >= 30


@pytest.mark.parametrize("tree", TREES)
def test_counting_the_locks_leaves_the_tree_as_it_was(monkeypatch, hooks, tree):
    counted = 0

    def check(scheduler):
        nonlocal counted
        cache = scheduler.tree_cache
        for req in scheduler.running_batch.reqs:
            before = cache.evictable_size(), cache.protected_size(), req.lock
            first = solely_locked_tokens(req, cache)
            assert solely_locked_tokens(req, cache) == first
            assert (cache.evictable_size(), cache.protected_size(), req.lock) == before
            assert 0 <= first <= req.kv.cache_protected_len
            counted += first > 0
        if hasattr(cache, "tree_core"):
            cache.tree_core.sanity_check([], [])

    scheduler = ModelFreeScheduler(tokens=320, tree=tree)
    for req in random_requests(random.Random(5), 20, pool=320):
        scheduler.submit(req)
    while not scheduler.idle():
        scheduler.step()
        check(scheduler)
    assert counted > 50 or tree == "disabled"


def test_the_count_knows_what_two_requests_share():
    from modelfree import make_req

    scheduler = ModelFreeScheduler(tokens=400, tree="unified-rust")
    shared, first, second = [7] * 20, [8] * 5, [9] * 9
    for rid, prompt in (("a", shared + first), ("b", shared + second)):
        scheduler.submit(make_req(rid, prompt, 30, ignore_eos=False))
        scheduler.step()
    scheduler.step()
    counts = {
        req.rid: solely_locked_tokens(req, scheduler.tree_cache) for req in scheduler.running_batch.reqs
    }
    assert counts == {"a": 5, "b": 9}


class _Raises(Policy):
    name = "raises"

    def select_victim(self, candidates, need_blocks, engine):
        raise RuntimeError("broken")


class _NamesAStranger(Policy):
    name = "stranger"

    def select_victim(self, candidates, need_blocks, engine):
        return object()


class _Abstains(Policy):
    name = "abstains"

    def select_victim(self, candidates, need_blocks, engine):
        return None


def _retractions(monkeypatch, hooks, policy, prepare=lambda glue: None):
    scheduler = ModelFreeScheduler(tokens=320, tree="unified-rust")
    if policy is not None:
        prepare(attach(hooks, scheduler, policy))
    watch = _Watch(monkeypatch, hooks, scheduler)
    rng = random.Random(11)
    run_with_arrivals(scheduler, random_requests(rng, 40, pool=320), rng)
    monkeypatch.undo()
    return [(state["retracted"], state["kept"]) for state in watch.states], scheduler.step_log


def _give_back_garbage(glue):
    glue.retraction_order = lambda reqs, upstream: [0] * len(reqs)


def _break_the_glue(glue):
    def retraction_order(reqs, upstream):
        raise KeyError("a defect of the adapter")

    glue.retraction_order = retraction_order


def _break_the_view(glue):
    def computed_tokens(reqs):
        raise AttributeError("a version that renamed what is read of a request")

    glue.computed_tokens = computed_tokens


def _break_the_batch(glue):
    class Broken(type(glue.engine)):
        __slots__ = ()

        def runs_now(self, batch):
            raise KeyError("a defect of the adapter")

    write_facts(glue.engine, __class__=Broken)


@pytest.mark.parametrize(
    ("policy", "prepare"),
    [
        pytest.param(_Raises(), lambda glue: None, id="policy raises"),
        pytest.param(_NamesAStranger(), lambda glue: None, id="policy names a stranger"),
        pytest.param(_Abstains(), lambda glue: None, id="policy abstains"),
        pytest.param(resolve("largest-first"), lambda glue: glue.controller.disable(), id="kill switch"),
        pytest.param(resolve("largest-first"), _give_back_garbage, id="order is no permutation"),
        pytest.param(resolve("largest-first"), _break_the_glue, id="adapter fails"),
        pytest.param(resolve("preempt-evict"), lambda glue: None, id="engine's own rule"),
        pytest.param(resolve("sglang_default"), lambda glue: None, id="SGLang's rule as a policy"),
    ],
)
def test_upstreams_order_is_back(monkeypatch, hooks, policy, prepare):
    upstream = _retractions(monkeypatch, hooks, None)
    hooks.glue = None
    ours = _retractions(monkeypatch, hooks, resolve("largest-first"))
    assert len(upstream[0]) >= 10
    assert ours != upstream
    hooks.glue = None
    assert _retractions(monkeypatch, hooks, policy, prepare) == upstream


@pytest.mark.parametrize("break_it", [_break_the_glue, _give_back_garbage, _break_the_view, _break_the_batch])
def test_a_broken_adapter_drops_out_and_says_so_once(hooks, monkeypatch, caplog, break_it):
    dropped = []
    monkeypatch.setattr(hooks, "_on_give_up", lambda: dropped.append(True))
    _retractions(monkeypatch, hooks, resolve("largest-first"), break_it)
    assert hooks.glue is None
    assert dropped == [True]
    assert caplog.text.count("SGLang continues by its own rules") == 1


def test_two_ranks_with_different_clocks_decide_alike(monkeypatch, hooks):
    from bidkv.adapters.sglang.ranks import BroadcastClock

    words = []

    def rank(number, broadcast):
        ticks = iter(range(10**9))
        speed = 0.01 + 0.005 * number
        word = BroadcastClock(
            broadcast, leads=number == 0, clock=lambda: 1000.0 * number + speed * next(ticks)
        )
        scheduler = ModelFreeScheduler(tokens=320, tree="unified-rust")
        glue = attach(hooks, scheduler, resolve("slack_aware"), on_arrival=word.arrived)
        write_facts(glue.engine, _clock=word.now_s)
        glue.on_pass = lambda ran: word.ran() if ran else None
        rng = random.Random(4)
        run_with_arrivals(scheduler, random_requests(rng, 40, pool=320), rng)
        return scheduler.step_log, glue.controller.counters

    def say(word):
        words.append(word)
        return word

    first, counters = rank(0, say)
    heard = iter(words)
    second, _ = rank(1, lambda word: next(heard))
    assert counters.preemptions_by_policy > 10
    assert second == first
    assert next(heard, None) is None
