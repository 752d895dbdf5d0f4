"""`fair`, `fast` and `on-time` on hand-set engines: who enters, who goes, what moves a place in the order."""

from __future__ import annotations

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import PolicySpecError, resolve
from bidkv.policy.own.fair import Fair
from bidkv.policy.own.fast import Fast
from bidkv.policy.own.on_time import OnTime
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.remaining import RemainingTokens
from bidkv.policy.parts.reserve import AdmissionRoom, SelfTuningReserve
from bidkv.policy.parts.returning import PASS_GROWTH, ReturnQueue
from bidkv.protocol.policy import Policy


def request(name: str, arrival_s: float = 0.0, prompt: int = 320, **figures: float) -> FakeRequest:
    return FakeRequest(name, arrival_s=arrival_s, num_prompt_tokens=prompt, num_computed_tokens=0, **figures)  # type: ignore[arg-type]


def experienced(dial: float = 1.0) -> Fast:
    """Return a policy that has seen so many requests finish that it trusts its estimates."""
    policy = Fast(dial=dial)
    policy.remaining.num_finished = 10**9
    for kind in policy.remaining._classes:  # as long as what is assumed, so that costs stay the same
        kind.seen, kind.first, kind.second = 1e9, 200e9, 2 * 200**2 * 1e9
    return policy


def crowd(policy: Policy, engine: FakeEngine, count: int = 10) -> list[FakeRequest]:
    """Fill the queue so that not all that wait fit: from then on there is a market."""
    members = [request(f"crowd{i}", 0.001 * i) for i in range(count)]
    for member in members:
        arrive(policy, engine, member)
    return members


def arrive(policy: Policy, engine: FakeEngine, *arrivals: FakeRequest) -> None:
    for arrival in arrivals:
        engine.queue.append(arrival)
        policy.on_arrival(arrival, engine)


def admit(policy: Policy, engine: FakeEngine, member: FakeRequest) -> None:
    engine.queue.remove(member)
    engine.running.append(member)
    policy.on_admit(member, engine)


def entering(policy: Policy, engine: FakeEngine) -> list[str]:
    """Admit everybody; the names in order."""
    names = []
    while (chosen := policy.select_next(engine)) is not None:
        names.append(chosen.request_id)
        admit(policy, engine, chosen)  # type: ignore[arg-type]
    return names


@pytest.mark.parametrize("name", ["fair", "fast", "on-time"])
@pytest.mark.parametrize(
    ("computed", "chosen"),
    [([100, 300, 50, 200], 2), ([100, 100, 100], 2), ([100, 150, 151], 1), ([0, 1, 2], 0)],
)
def test_the_latest_of_the_cheapest_to_repeat_goes(name: str, computed: list[int], chosen: int) -> None:
    running = [FakeRequest(f"r{i}", num_computed_tokens=tokens) for i, tokens in enumerate(computed)]
    assert resolve(name).select_victim(running, 1, FakeEngine(running=running)) is running[chosen]


def test_while_all_that_wait_fit_arrival_orders() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=90)
    arrive(policy, engine, request("long", 0.0, 900), request("short", 0.001, 16), request("middle", 0.002))
    assert policy.backlog_s > 0
    assert entering(policy, engine) == ["long", "short", "middle"]


def test_in_a_queue_the_short_one_passes_the_long_one_that_arrived_before() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=90)
    crowd(policy, engine)
    arrive(policy, engine, request("long", 0.010, 1400), request("short", 0.011, 16))
    assert policy.bids["short"].key_s < policy.bids["long"].key_s
    engine.free_blocks = 1000
    names = entering(policy, engine)
    assert names.index("short") < names.index("long")


@pytest.mark.parametrize("dial", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("weight", [1e-300, 0.5, 1.0, 1e300])
def test_nobody_is_put_back_further_than_dial_times_the_backlog_it_met(dial: float, weight: float) -> None:
    policy, engine = Fast(dial=dial), FakeEngine(free_blocks=10)
    crowd(policy, engine)
    backlog_s = policy.backlog_s
    late = request("late", 2.0, 1400, weight=weight)
    arrive(policy, engine, late)
    assert 2.0 <= policy.bids["late"].key_s <= 2.0 + dial * backlog_s


def test_prompts_of_a_length_that_nothing_finished_of_keep_the_order_of_arrival() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    crowd(policy, engine)
    unknown = policy.remaining._classes[26]  # prompts from 8,192 to 12,287 tokens
    unknown.seen = unknown.first = unknown.second = 0.0
    arrive(policy, engine, request("long", 1.0, 9000))
    assert policy.bids["long"].put_back == 0.5
    arrive(policy, engine, request("longer", 1.1, 13000))
    assert policy.bids["longer"].put_back > 0.9


def test_weight_brings_a_request_forward() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=10)
    crowd(policy, engine)
    keys = []
    for weight in (0.1, 1.0, 10.0):
        arrive(policy, engine, request(f"w{weight}", 1.0, weight=weight))
        keys.append(policy.bids[f"w{weight}"].key_s)
    assert keys[0] > keys[1] > keys[2] > 1.0


def test_a_deadline_brings_a_request_forward_but_not_before_its_arrival() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=10)
    crowd(policy, engine)
    arrive(policy, engine, request("idle", 1.0), request("urgent", 1.0, deadline_s=1.5))
    arrive(policy, engine, request("relaxed", 1.0, deadline_s=1e9))
    assert policy.bids["urgent"].key_s == 1.0 < policy.bids["idle"].key_s <= policy.bids["relaxed"].key_s


def test_nobody_stays_put_back_by_a_backlog_that_is_gone() -> None:
    policy, engine = experienced(dial=1.0), FakeEngine(free_blocks=10)
    members = crowd(policy, engine, 20)
    met_s = policy.backlog_s
    arrive(policy, engine, request("long", 1.0, 1400))
    key_s = policy.bids["long"].key_s
    assert 1.0 + 0.5 * met_s < key_s <= 1.0 + met_s
    for member in members:
        admit(policy, engine, member)
    assert 1.0 <= policy.bids["long"].key_s <= 1.0 + policy.backlog_s
    arrive(policy, engine, *(request(f"new{i}", 2.0) for i in range(20)))
    assert policy.bids["long"].key_s < key_s  # and it does not go back again


@pytest.mark.parametrize(("others", "moves"), [(1000, True), (2500, False)])
def test_the_keys_of_a_queue_too_long_to_sort_within_a_step_stay(others: int, moves: bool) -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=10)
    dear = [request(f"dear{i}", 0.0, 6000) for i in range(400)]
    arrive(policy, engine, *dear, *(request(f"cheap{i}", 0.5, 16) for i in range(others)))
    arrive(policy, engine, request("long", 1.0, 1400))
    key_s, backlog_s = policy.bids["long"].key_s, policy.backlog_s
    for member in dear:
        policy.on_admit(member, engine)
    assert policy.backlog_s < 0.5 * backlog_s
    assert (policy.bids["long"].key_s < key_s) == moves


def test_a_preempted_request_keeps_its_place() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=10)
    first, *_ = crowd(policy, engine)
    key_s = policy.bids["crowd0"].key_s
    admit(policy, engine, first)
    first.num_output_tokens = 500
    engine.running.remove(first)
    policy.on_preempt(first, 820, engine)
    assert policy.bids["crowd0"].key_s == key_s
    assert policy.bids["crowd0"].blocks == -(-820 // 16)


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_head_that_does_not_fit_is_passed_by_so_much_work_and_no_more(passes: int) -> None:
    policy, engine = Fast(passes=passes), FakeEngine(free_blocks=1000)
    policy.remaining.num_finished = 32
    arrive(policy, engine, request("typical", 0.0, 16))
    assert entering(policy, engine) == ["typical"]
    arrive(policy, engine, request("huge", 0.0, 1600), *(request(f"s{i}", 1.0 + i, 16) for i in range(9)))
    engine.free_blocks = 50
    costs_s = []
    while (head := policy.select_next(engine)) is not None and head.request_id != "huge":
        costs_s.append(policy.bids[head.request_id].cost_s)
        admit(policy, engine, head)  # type: ignore[arg-type]
    assert head is not None
    most_s = passes * policy.typical_s
    assert sum(costs_s) >= most_s
    assert sum(costs_s[:-1]) < most_s or not passes
    assert bool(costs_s) == bool(passes)


def test_nothing_passes_a_head_before_lengths_are_known() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=50)
    arrive(policy, engine, request("huge", 0.0, 1600), request("small", 1.0, 16))
    policy.remaining.num_finished = 31
    assert policy.select_next(engine).request_id == "huge"  # type: ignore[union-attr]
    policy.remaining.num_finished = 32
    assert policy.select_next(engine).request_id == "small"  # type: ignore[union-attr]


def test_of_the_first_that_fit_in_place_of_a_head_the_largest_enters() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    sizes = {"small": 16, "large": 160, "middle": 64, "later": 320}
    arrive(policy, engine, request("huge", 0.0, 1600))
    arrive(policy, engine, *(request(name, 1.0, size) for name, size in sizes.items()))
    engine.free_blocks = 50
    head = policy.select_next(engine)
    assert head is not None
    assert head.request_id == "large"


def fair_with_one_preempted(passes: int, prompt: int = 1600) -> tuple[Fair, FakeEngine, list[FakeRequest]]:
    """`out` was preempted and needs 100 blocks; small requests have arrived since."""
    policy, engine = Fair(passes=passes), FakeEngine(free_blocks=1000)
    out, *small = request("out", 0.0, prompt), *(request(f"s{i}", 1.0 + i, 64) for i in range(6))
    arrive(policy, engine, out)
    admit(policy, engine, out)
    arrive(policy, engine, *small)
    preempt(policy, engine, out)
    return policy, engine, [out, *small]


def preempt(policy: Policy, engine: FakeEngine, member: FakeRequest) -> None:
    engine.running.remove(member)
    engine.queue.insert(0, member)
    member.num_preemptions += 1
    policy.on_preempt(member, 16, engine)


def test_fair_lets_a_preempted_request_that_fits_return_first() -> None:
    policy, engine, _ = fair_with_one_preempted(passes=8)
    assert entering(policy, engine) == ["out", "s0", "s1", "s2", "s3", "s4", "s5"]


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_preempted_request_that_does_not_fit_is_passed_by_so_many_newcomers_and_no_more(
    passes: int,
) -> None:
    policy, engine, (out, *small) = fair_with_one_preempted(passes)
    engine.free_blocks = 60
    for newcomer in small[:passes]:
        assert policy.select_next(engine) is newcomer
        admit(policy, engine, newcomer)
    assert policy.select_next(engine) is out
    # The count starts anew once it returned.
    engine.free_blocks = 1000
    admit(policy, engine, out)
    preempt(policy, engine, out)
    engine.free_blocks = 60
    assert policy.select_next(engine) is (small[passes] if passes else out)


def test_after_its_passes_a_preempted_request_is_passed_by_none() -> None:
    policy, engine, (out, first, second, *_) = fair_with_one_preempted(passes=1)
    engine.free_blocks = 60
    admit(policy, engine, first)
    assert policy.select_next(engine) is out  # second may not pass it, and it does not fit
    preempt(policy, engine, first)
    assert policy.select_next(engine) is out  # first was preempted too, and may not pass it either
    engine.free_blocks = 1000
    assert policy.select_next(engine) is out  # they return in the order in which they arrived
    admit(policy, engine, out)
    assert policy.select_next(engine) is first
    admit(policy, engine, first)
    assert policy.select_next(engine) is second


def test_a_returning_request_counts_as_a_pass() -> None:
    policy, engine, (out, first, second, *_) = fair_with_one_preempted(passes=2)
    engine.free_blocks = 60
    admit(policy, engine, first)
    preempt(policy, engine, first)
    assert policy.select_next(engine) is first
    admit(policy, engine, first)
    assert policy.select_next(engine) is out  # passed by first twice
    engine.free_blocks = 1000
    admit(policy, engine, out)
    assert policy.select_next(engine) is second


def test_a_newcomer_that_passes_leaves_room_for_those_that_run_to_grow() -> None:
    policy, engine, (out, first, *_) = fair_with_one_preempted(passes=8)
    engine.running = [request(f"r{i}") for i in range(4)]
    engine.free_blocks = 4 + int(4 * PASS_GROWTH) + 4 // 2 - 1  # its own, theirs, the reserve, one too few
    assert policy.select_next(engine) is out
    engine.free_blocks += 1
    assert policy.select_next(engine) is first


def test_nobody_passes_a_newcomer_that_does_not_fit() -> None:
    policy, engine = Fair(passes=8), FakeEngine(free_blocks=1000)
    out, big, small = request("out", 0.0, 1600), request("big", 0.5, 640), request("small", 1.0, 16)
    arrive(policy, engine, out)
    admit(policy, engine, out)
    arrive(policy, engine, big, small)
    preempt(policy, engine, out)
    engine.free_blocks = 30
    assert policy.select_next(engine) is out


@pytest.mark.parametrize(("passes", "enters"), [(1, "small"), (0, "large")])
def test_another_preempted_request_may_return_in_place_of_one_that_does_not_fit(
    passes: int, enters: str
) -> None:
    policy, engine = Fair(passes=passes), FakeEngine(free_blocks=1000)
    small, large, newcomer = request("small", 0.0, 64), request("large", 0.1, 1600), request("new", 0.2, 16)
    arrive(policy, engine, small, large, newcomer)
    for member in (small, large):
        admit(policy, engine, member)
    preempt(policy, engine, small)
    preempt(policy, engine, large)
    engine.free_blocks = 60
    head = policy.select_next(engine)
    assert head is not None
    assert head.request_id == enters  # 0 passes: who was preempted last is first, as in the engine


@pytest.mark.parametrize("name", ["fast", "on-time"])
def test_nothing_is_kept_of_those_that_left(name: str) -> None:
    policy, engine = resolve(name), FakeEngine(free_blocks=60)
    assert isinstance(policy, Fast)
    members = crowd(policy, engine, 100)
    for index, member in enumerate(members):
        if index % 2:
            admit(policy, engine, member)
        policy.on_finish(member, engine, completed=bool(index % 2))
    assert policy.bids == {}
    assert policy.backlog_s == 0.0
    assert policy.select_next(engine) is None


def test_on_time_serves_the_cheapest_first_and_the_late_by_arrival() -> None:
    policy, engine = OnTime(late_share=1.0, dial=0.0), FakeEngine(free_blocks=10_000)
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("old", 0.0, 64), request("older", -0.5, 640))
    engine.now_s = 2.5  # both are beyond 2 s
    arrive(policy, engine, request("long", 2.4, 640), request("short", 2.45, 32))
    assert entering(policy, engine) == ["older", "old", "short", "long"]


def test_on_time_never_gives_late_ones_less_than_their_share() -> None:
    policy, engine = OnTime(late_share=0.5), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, *(request(f"late{i}", 0.01 * i) for i in range(20)))
    engine.now_s = 3.0
    arrive(policy, engine, *(request(f"new{i}", 2.9 + 0.001 * i) for i in range(20)))
    names = entering(policy, engine)
    for count in range(2, 40):
        late = sum(name.startswith("late") for name in names[:count])
        assert count // 2 - 1 <= late <= count // 2 + 1
    assert sorted(names) == sorted([f"late{i}" for i in range(20)] + [f"new{i}" for i in range(20)])


def test_without_a_share_late_ones_wait_for_all_that_are_on_time() -> None:
    policy, engine = OnTime(late_share=0.0), FakeEngine(free_blocks=10_000)
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("late", 0.0))
    engine.now_s = 3.0
    arrive(policy, engine, request("a", 2.9, 64), request("b", 2.9, 32))
    assert entering(policy, engine) == ["b", "a", "late"]


def test_before_costs_are_known_those_on_time_enter_in_order_of_arrival() -> None:
    policy, engine = OnTime(), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, request("long", 0.0, 640), request("short", 0.1, 32))
    policy.remaining.num_finished = 8
    arrive(policy, engine, request("middle", 0.2, 320), request("least", 0.3, 16))
    assert entering(policy, engine) == ["long", "short", "least", "middle"]


def test_a_deadline_that_comes_before_the_objective_makes_a_request_late_earlier() -> None:
    policy, engine = OnTime(late_share=1.0), FakeEngine(free_blocks=10_000)
    arrive(policy, engine, request("hurried", 0.0, 640, deadline_s=0.2), request("short", 0.0, 32))
    engine.now_s = 0.5
    assert entering(policy, engine) == ["hurried", "short"]


def test_memory_does_not_stay_empty_for_the_turn_of_one_kind() -> None:
    policy, engine = OnTime(late_share=1.0, passes=1), FakeEngine(free_blocks=1000)
    policy.remaining.num_finished = 32
    arrive(policy, engine, request("cheap", 0.0, 16))
    assert entering(policy, engine) == ["cheap"]
    arrive(policy, engine, request("late", 0.0, 1600))
    engine.now_s, engine.free_blocks = 3.0, 50
    arrive(policy, engine, request("a", 2.9, 64), request("b", 2.9, 32))
    first = policy.select_next(engine)
    assert first is not None
    assert first.request_id == "b"
    admit(policy, engine, first)  # type: ignore[arg-type]
    # Passed by the work of a typical request already: now it waits for memory alone.
    assert policy.select_next(engine) is engine.queue[0]


@pytest.mark.parametrize(
    "spec",
    ["fair:passes=-1", "fast:dial=-1", "fast:passes=-1", "on-time:ttft_slo_s=0", "on-time:late_share=1.5"],
)
def test_an_option_out_of_range_is_named(spec: str) -> None:
    with pytest.raises(PolicySpecError, match=spec.split(":")[1].split("=")[0]):
        resolve(spec)


def test_the_reserve_follows_preemptions_time_and_who_runs() -> None:
    engine = FakeEngine(running=[FakeRequest(f"r{i}") for i in range(4)], num_blocks=1000, now_s=1.0)
    prices = MachinePrices()
    reserve = SelfTuningReserve(prices, gain=7.0, unit=0.6, overhead_s=1e-3)
    reserve.observe(engine)
    assert reserve.blocks(engine) == reserve.blocks(engine) == 2  # half a block for each that runs
    reserve.on_preempt(1000, 0, engine)
    raised = reserve.blocks(engine)
    cost_s = 1000 * prices.token_s + 1e-3
    assert raised == reserve.blocks(engine) == int(7.0 * 0.6 * prices.footprint * cost_s * 1000) > 2
    engine.now_s += 0.01
    fallen = reserve.blocks(engine)
    assert 2 < fallen < raised
    engine.now_s += 0.01
    assert raised - fallen - 1 <= fallen - reserve.blocks(engine) <= raised - fallen + 1
    engine.now_s += 1e6
    assert reserve.blocks(engine) == 2
    engine.running.extend(FakeRequest(f"s{i}") for i in range(4))
    assert reserve.blocks(engine) == 4


def test_lengths_are_learned_by_prompt_length() -> None:
    remaining = RemainingTokens()
    engine = FakeEngine()
    for index in range(200):
        long = index % 2
        finished = request(f"r{index}", prompt=2000 if long else 100, num_output_tokens=50 + 450 * long)
        remaining.leave(finished, completed=True)
    short_mean, _ = remaining.moments(request("short", prompt=110), engine)
    long_mean, square = remaining.moments(request("long", prompt=1900), engine)
    assert short_mean < 80 < 450 < long_mean < 500
    assert square >= long_mean * long_mean
    assert remaining.moments(request("capped", prompt=1900, max_tokens=7), engine) == (7.0, 49.0)


def test_a_changed_law_is_followed_within_a_few_dozen_requests() -> None:
    remaining, engine = RemainingTokens(), FakeEngine()
    for index, tokens in enumerate([100] * 1000 + [1000] * 60):
        remaining.leave(request(f"r{index}", num_output_tokens=tokens), completed=True)
    assert remaining.moments(request("next"), engine)[0] > 600


def test_what_runs_without_an_end_counts_while_few_have_finished() -> None:
    remaining, engine = RemainingTokens(), FakeEngine()
    for index in range(10):  # the short ones of one prompt length finish first
        remaining.leave(request(f"short{index}", prompt=2000, num_output_tokens=20), completed=True)
    running = [request(f"r{index}", prompt=100) for index in range(20)]
    for member in running:
        remaining.admit(member, engine)
    before, _ = remaining.moments(request("next", prompt=100), engine)
    engine.num_steps += 500
    after, _ = remaining.moments(request("next", prompt=100), engine)
    assert before < 200
    assert after > 500
    for member in running:
        remaining.preempt(member)
        remaining.admit(member, engine)
        remaining.leave(member, completed=False)
    assert remaining.moments(request("next", prompt=100), engine)[0] == before


def test_before_anything_is_learned_arrival_orders() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=90)
    crowd(policy, engine)
    arrive(policy, engine, request("long", 0.010, 1400), request("short", 0.011, 16))
    engine.free_blocks = 1000
    names = entering(policy, engine)
    assert names.index("long") < names.index("short")


def test_waiting_requests_are_priced_again_as_lengths_become_known() -> None:
    policy, engine = Fast(), FakeEngine(free_blocks=10, now_s=1.0)
    crowd(policy, engine)
    arrive(policy, engine, request("long answer", 0.010, 100), request("short answer", 0.011, 1400))
    before = {name: bid.cost_s for name, bid in policy.bids.items()}
    assert before["long answer"] < before["short answer"]
    for index in range(200):
        long = index % 2
        finished = request(f"f{index}", 0.0, 100 if long else 1400, num_output_tokens=4000 if long else 10)
        policy.on_finish(finished, engine, completed=True)
    assert policy.bids["long answer"].cost_s > policy.bids["short answer"].cost_s
    assert policy.backlog_s == pytest.approx(sum(bid.cost_s for bid in policy.bids.values()))


def test_a_preemption_that_its_progress_paid_for_does_not_raise_the_reserve() -> None:
    engine = FakeEngine(running=[FakeRequest(f"r{i}") for i in range(4)], num_blocks=1000, now_s=1.0)
    levels = []
    for gained_tokens in (0, 10, 10_000):
        reserve = SelfTuningReserve(MachinePrices(), gain=7.0, unit=0.6, overhead_s=1e-3)
        reserve.observe(engine)
        reserve.on_preempt(1000, gained_tokens, engine)
        levels.append(reserve.blocks(engine))
    assert levels[0] > levels[1] > levels[2] == 2


def test_room_to_grow_follows_the_need_between_its_bounds() -> None:
    room = AdmissionRoom(free=500, running=10, growth_per_block=0.5, most_growth=40.0)
    assert room.growth_blocks(20, payback=2.0) == 20.0
    assert room.growth_blocks(1, payback=2.0, least=1.0) == 10.0
    assert room.growth_blocks(1000, payback=2.0) == 40.0
    assert room.growth_blocks(1000, payback=2.0, least=5.0) == 50.0


def test_a_preempted_request_that_fits_without_its_room_to_grow_waits() -> None:
    queue = ReturnQueue(passes=8)
    out = request("out")
    queue.arrive(out, 20)
    queue.admit(out)
    queue.preempt(out, 20)
    room = AdmissionRoom(free=30, running=10, growth_per_block=0.5, most_growth=40.0)
    assert queue.choose(room) is None
    assert queue.choose(room._replace(free=50)) is out
    assert queue.choose(room._replace(free=10)) is out  # it does not fit: the engine admits none
