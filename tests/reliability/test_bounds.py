"""How much longer than under FCFS can a request wait? The bounds of docs/reference/reliability.md."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.simulator.driver import CheckedRun, WatchedController
from tests.simulator.test_invariants import engines
from tests.support import workloads

from bidkv.policy import resolve
from bidkv.policy.own.fast import Fast
from bidkv.policy.own.fast_overdue import OverdueLine
from bidkv.policy.parts.remaining import RemainingTokens
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator import EngineConfig


class Admissions(WatchedController):
    """Notes at each admission who was passed: the requests that waited at that moment."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy, time_budget_s=None)
        self.passed: list[tuple[RequestView, list[RequestView]]] = []

    def on_admit(self, request: RequestView, engine: EngineView, cached_tokens: int = 0) -> None:
        self.passed.append((request, list(engine.waiting())))
        super().on_admit(request, engine, cached_tokens)


class SureOfLengths(RemainingTokens):
    """Lengths that are taken for known: else a prompt of a length that none has finished keeps its place."""

    __slots__ = ()

    def certainty_of(self, request: RequestView) -> float:
        return 1.0


class WatchedLine(OverdueLine):
    """Remembers what went before all others when it was asked last, and the bound then."""

    goes_first: str | None = None
    longest_s = 0.0

    def first(self, now_s: float, engine: EngineView) -> RequestView | None:
        overdue = super().first(now_s, engine)
        self.goes_first = None if overdue is None else overdue.request_id
        self.longest_s = self._longest_s
        return overdue


class WatchedFast(Fast):
    """`fast` that remembers each request's first key, the latest its bound allows, and how dear all were."""

    def __init__(self, *, dial: float, passes: int) -> None:
        super().__init__(dial=dial, passes=passes)
        self.remaining = SureOfLengths()
        self.dial = dial
        self.keys: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        self.costs_s: dict[str, float] = {}
        self.dearest_typical_s = 0.0
        self.dearest_s = 0.0
        self._line = self.line = WatchedLine(self.bids, self.prices, self.remaining)

    def select_next(self, engine: EngineView) -> RequestView | None:
        self.line.goes_first = None
        return super().select_next(engine)

    def cost_s(self, request: RequestView, engine: EngineView, done: int | None = None) -> float:
        cost_s = super().cost_s(request, engine, done)
        self.dearest_s = max(self.dearest_s, cost_s)
        return cost_s

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self.latest[request.request_id] = request.arrival_s + self.dial * self.backlog_s
        super().on_arrival(request, engine)
        bid = self.bids[request.request_id]
        self.keys[request.request_id], self.costs_s[request.request_id] = bid.key_s, bid.cost_s
        self.dearest_typical_s = max(self.dearest_typical_s, self.typical_s)


def fcfs_engines() -> st.SearchStrategy[EngineConfig]:
    return engines().filter(lambda config: config.scheduling_policy == "fcfs")


def play(
    requests: list[WorkloadRequest], control: WatchedController, config: EngineConfig, aborts: set[int]
) -> None:
    """To the end; before each step named in `aborts` the oldest live request is given up."""
    run = CheckedRun(requests, control, config)
    while run.coming or not run.engine.idle:
        live = [*run.engine.running, *run.engine.waiting()]
        if len(run.books.steps) in aborts and live:
            aborts = aborts - {len(run.books.steps)}
            run.abort(min(live, key=lambda request: request.arrival_s))
            continue
        run.step()
        assert len(run.books.steps) < 20_000


@pytest.mark.parametrize("policy", ["preempt-evict", "fair", "fair:cap=1;gain=50", "lcf", "watermark:f=0.2"])
@given(requests=workloads(), config=fcfs_engines(), aborts=st.sets(st.integers(0, 60), max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_policy_that_keeps_the_order_lets_nobody_pass_a_request_that_never_ran(
    policy: str, requests: list[WorkloadRequest], config: EngineConfig, aborts: set[int]
) -> None:
    control = Admissions(resolve(policy))
    play(requests, control, config, aborts)
    for entered, waiting in control.passed:
        for request in waiting:
            assert request.arrival_s > entered.arrival_s or request.num_preemptions


class Newcomers(Admissions):
    """Counts, for each stay of a preempted request in the queue, those that ran for the first time."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.passes: dict[tuple[str, int], int] = {}

    def on_admit(self, request: RequestView, engine: EngineView, cached_tokens: int = 0) -> None:
        for other in engine.waiting():
            if other.num_preemptions and not request.num_preemptions:
                stay = other.request_id, other.num_preemptions
                self.passes[stay] = self.passes.get(stay, 0) + 1
        super().on_admit(request, engine, cached_tokens)


@pytest.mark.parametrize("passes", [0, 1, 4])
@given(requests=workloads(), config=fcfs_engines(), aborts=st.sets(st.integers(0, 60), max_size=4))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fair_lets_so_many_newcomers_enter_before_a_preempted_request_returns(
    passes: int, requests: list[WorkloadRequest], config: EngineConfig, aborts: set[int]
) -> None:
    control = Newcomers(resolve(f"fair:passes={passes}"))
    play(requests, control, config, aborts)
    assert max(control.passes.values(), default=0) <= passes
    assert control.counters.failures == 0


@pytest.mark.parametrize("passes", [0, 1, 4])
def test_fair_comes_to_its_bound_where_short_work_arrives_behind_long(passes: int) -> None:
    # Two long requests that do not fit together, and short ones that fit beside either.
    requests = [WorkloadRequest(f"long{i}", 0.0, 300, 1000) for i in range(2)]
    requests += [WorkloadRequest(f"short{i}", 1.0 + i, 20, 20) for i in range(600)]
    engine = replace(TIGHT, num_gpu_blocks=101)
    control, unbounded = (Newcomers(resolve(f"fair:passes={most}")) for most in (passes, 1000))
    for each in (control, unbounded):
        play(requests, each, engine, set())
    assert max(control.passes.values(), default=0) == passes
    assert max(unbounded.passes.values()) > 100


@given(
    requests=workloads(),
    config=fcfs_engines(),
    aborts=st.sets(st.integers(0, 60), max_size=4),
    dial=st.sampled_from([0.0, 0.5, 4.0, 100.0]),
    passes=st.integers(0, 3),
    weights=st.lists(st.sampled_from([1.0, 1e-3, 1e300]), min_size=12, max_size=12),
)
@settings(
    max_examples=2 * settings.default.max_examples,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_fast_lets_nobody_pass_beyond_its_bound(
    requests: list[WorkloadRequest],
    config: EngineConfig,
    aborts: set[int],
    dial: float,
    passes: int,
    weights: list[float],
) -> None:
    requests = [replace(r, weight=weight) for r, weight in zip(requests, weights, strict=False)]
    policy = WatchedFast(dial=dial, passes=passes)
    passed_s: dict[str, float] = {}
    ahead_of: dict[str, set[tuple[str, int]]] = {}

    class Judge(Admissions):
        def on_admit(self, request: RequestView, engine: EngineView, cached_tokens: int = 0) -> None:
            entering = policy.bids[request.request_id]
            passed_s.pop(request.request_id, None)
            ahead_of.pop(request.request_id, None)
            for other in engine.waiting():
                name = other.request_id
                key_s = policy.bids[name].key_s
                # Who is ordered ahead of it now, or was at any time of this stay, may have been passed too.
                ahead = ahead_of.setdefault(name, set())
                ahead.update(
                    (r.request_id, r.num_preemptions)
                    for r in engine.waiting()
                    if policy.bids[r.request_id].key_s <= key_s
                )
                if entering.key_s <= key_s:
                    # In order: nobody who arrived later than dial * backlog seconds after it.
                    assert request.arrival_s <= key_s <= policy.latest[name]
                    continue
                if policy.found.mostly:  # the order of arrival, behind those preempted since
                    is_new = not request.num_preemptions and not other.num_preemptions
                    assert not is_new or request.arrival_s <= other.arrival_s
                    continue
                if request.request_id == policy.line.goes_first:  # overdue, or it returns before such a one
                    longest_s = policy.line.longest_s
                    preempted_s = policy.bids[name].preempted_s
                    if request.num_preemptions:
                        # A return that has waited beyond the bound, or a share of it where it arrived long
                        # before; of those the one preempted first.
                        is_old = engine.now_s - request.arrival_s > 1.2 * longest_s
                        assert engine.now_s - entering.preempted_s > (0.3 if is_old else 1.0) * longest_s
                        assert not other.num_preemptions or entering.preempted_s <= preempted_s
                        continue
                    arrived_later = request.arrival_s > other.arrival_s
                    stays_s = engine.now_s - preempted_s
                    assert not arrived_later or (other.num_preemptions and stays_s <= longest_s)
                    continue
                # Each of those was passed until the work that did so came to its bound, as the head of the
                # order and as overdue.
                assert passes
                passed_s[name] = passed_s.get(name, 0.0) + entering.cost_s
                each_s = (passes + min(passes, 5)) * policy.dearest_typical_s + 2 * policy.dearest_s
                assert passed_s[name] <= len(ahead) * each_s * (1 + 1e-9)
            super().on_admit(request, engine, cached_tokens)

    control = Judge(policy)
    play(requests, control, config, aborts)
    assert control.counters.failures == 0


SHORT = (40, 40)
LONG = (300, 120)
TIGHT = EngineConfig(num_gpu_blocks=41, block_size=16, max_num_seqs=8, max_num_batched_tokens=64)


LONG_S = 200.0  # by then short ones wait


def flood(count: int = 600) -> list[WorkloadRequest]:
    """One long request put into a stream of short ones, twice as many as the engine can serve."""
    requests = [WorkloadRequest(f"s{i}", i * 2.5, *SHORT) for i in range(count)]
    requests.append(WorkloadRequest("long", LONG_S, *LONG))
    return sorted(requests, key=lambda request: request.arrival_s)


def rank_of_long(control: Admissions, config: EngineConfig) -> int | None:
    """How many requests that arrived after the long one entered before it; None when it never did in time."""
    run = CheckedRun(flood(), control, config)
    while len(run.coming) > 60:
        run.step()
    entered = [request for request, _ in control.passed]
    place = next((i for i, request in enumerate(entered) if request.request_id == "long"), None)
    if place is None or "long" not in run.books.finished:
        return None
    return sum(request.arrival_s > LONG_S for request in entered[:place])


def test_endless_short_work_starves_the_long_request_under_shortest_first() -> None:
    assert rank_of_long(Admissions(resolve("preempt-evict-sjf")), TIGHT) is None


@pytest.mark.parametrize("policy", ["preempt-evict", "fair"])
def test_endless_short_work_does_not_pass_the_long_request_where_arrival_orders(policy: str) -> None:
    assert rank_of_long(Admissions(resolve(policy)), TIGHT) == 0


@pytest.mark.parametrize(("dial", "passes"), [(0.0, 0), (0.0, 5), (4.0, 0), (4.0, 64), (40.0, 64)])
def test_endless_short_work_passes_the_long_request_within_the_bound_of_fast(
    dial: float, passes: int
) -> None:
    policy = WatchedFast(dial=dial, passes=passes)
    control = Admissions(policy)
    rank = rank_of_long(control, TIGHT)
    assert rank is not None
    # Those that arrive before the latest its key can be may pass it, and `passes` typical ones while it
    # heads, and five more once it is overdue.
    entered = [request for request, _ in control.passed]
    place = next(i for i, request in enumerate(entered) if request.request_id == "long")
    late = [request for request in entered[:place] if request.arrival_s > policy.latest["long"]]
    work_s = sum(policy.costs_s[request.request_id] for request in late)
    assert work_s <= (passes + min(passes, 5)) * policy.dearest_typical_s + 2 * policy.dearest_s
    assert bool(late) <= bool(passes)
    assert (rank > len(late)) == (dial > 0.0)
