"""`fast` on engines set by hand: who enters, and what moves a place in the order."""

from __future__ import annotations

import pytest
from tests.policy.hand_set import admit, arrive, crowd, entering, request
from tests.support import FakeEngine

from bidkv.policy import resolve
from bidkv.policy.own.fast import Fast


def experienced(dial: float = 1.0) -> Fast:
    """Return a policy that has seen so many requests finish that it trusts its estimates."""
    policy = Fast(dial=dial)
    policy.remaining.num_finished = 10**9
    for kind in policy.remaining._classes:  # as long as what is assumed, so that costs stay the same
        kind.seen, kind.first, kind.second = 1e9, 200e9, 2 * 200**2 * 1e9
    return policy


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


def overdue(policy: Fast, engine: FakeEngine) -> None:
    """A long request has waited 2 s; the longest wait in the order of arrival was 5 s; short ones arrive."""
    crowd(policy, engine)
    early = request("early", 0.0)
    arrive(policy, engine, early)
    arrive(policy, engine, request("long", 3.0, 1400))
    engine.now_s = 5.0
    for member in [*engine.queue]:
        if member.request_id != "long":
            admit(policy, engine, member)
    for member in [*engine.running]:
        engine.running.remove(member)
        policy.on_finish(member, engine, completed=False)
    arrive(policy, engine, *(request(f"s{i}", 5.0, 16) for i in range(20)))


def test_a_request_that_would_wait_longer_than_by_arrival_goes_before_all_others() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    overdue(policy, engine)
    policy.bids["long"].key_s = 1e6
    policy._waiting.push(engine.queue[0], 1e6, policy.bids["long"].blocks)
    assert policy.select_next(engine).request_id == "s0"  # type: ignore[union-attr]
    engine.now_s = 8.0
    assert policy.select_next(engine).request_id == "long"  # type: ignore[union-attr]


def test_once_overdue_it_goes_first_until_it_enters() -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    overdue(policy, engine)
    policy.bids["long"].key_s = 1e6
    policy._waiting.push(engine.queue[0], 1e6, policy.bids["long"].blocks)
    engine.now_s = 8.0
    assert policy.select_next(engine).request_id == "long"  # type: ignore[union-attr]
    policy._line.by_arrival.seen_s = 100.0
    assert policy.select_next(engine).request_id == "long"  # type: ignore[union-attr]


def test_a_request_turns_overdue_earlier_where_those_behind_it_could_not_enter_in_time() -> None:
    due_s = []
    for others in (0, 7):
        policy, engine = experienced(), FakeEngine(free_blocks=1000)
        order = policy._line.by_arrival
        order.seen_s, order._busy_s, order._work_s = 100.0, 20.0, 20.0
        for index in range(1 + others):
            member = request(f"r{index}", 0.0, 16)
            engine.queue.append(member)
            policy.on_arrival(member, engine)
            order._waiting[member.request_id] = (member, 8.0)
        assert policy._line.first(1.0, engine) is None
        due_s.append(policy._line.due_s)
    assert due_s[0] == pytest.approx(99.0, abs=1.0)
    assert due_s[1] == pytest.approx(due_s[0] - 0.5 * 7 * 8.0)


@pytest.mark.parametrize(
    ("waited_s", "arrived_s", "returns"),
    [(2.5, 0.0, True), (1.5, 0.0, False), (2.5, 12.0, False), (7.0, 10.0, True)],
    ids=["old", "just preempted", "young", "young, but long preempted"],
)
def test_a_preempted_request_goes_before_an_overdue_one_after_a_share_of_the_longest_wait(
    waited_s: float, arrived_s: float, returns: bool
) -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    line = policy._line
    late, back = request("late", 10.0, 16), request("back", arrived_s, 16)
    arrive(policy, engine, back)
    admit(policy, engine, back)
    arrive(policy, engine, late)
    engine.now_s = now_s = 10.0 + 7.0  # so seven seconds are the longest wait by arrival, too
    line.preempt(back, policy.bids["back"], now_s - waited_s)
    assert line.first(now_s, engine) is (back if returns else late)


@pytest.mark.parametrize(("prompt", "enters"), [(400, True), (600, False)])
def test_the_oldest_new_request_passes_a_preempted_head_only_if_it_is_small(
    prompt: int, enters: bool
) -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=4000)
    running = [request(f"r{i}", 0.0, 16) for i in range(10)]
    back = request("back", 0.0, 1600)
    arrive(policy, engine, *running, back)
    for member in [*running, back]:
        admit(policy, engine, member)
    engine.queue.append(back)
    engine.running.remove(back)
    policy.on_preempt(back, 1600, engine)
    arrive(policy, engine, *(request(f"n{i}", 1.0 + i, prompt) for i in range(40)))
    policy.bids["back"].key_s = -1.0
    policy._waiting.push(back, -1.0, policy.bids["back"].blocks)
    policy._passes = 10**6
    policy.remaining.num_finished = 0  # so that nothing passes because it is cheap
    engine.free_blocks = 90
    entered_s = 0.0
    while (head := policy.select_next(engine)) is not None and head is not back:
        entered_s += policy.bids[head.request_id].cost_s
        engine.free_blocks = 90 + policy.bids[head.request_id].blocks
        admit(policy, engine, head)  # type: ignore[arg-type]
        engine.free_blocks = 90
    if enters:
        assert 10 * policy.typical_s <= entered_s <= 12 * policy.typical_s
    else:
        assert not entered_s


@pytest.mark.parametrize(("room", "returns"), [(4, False), (5, True)])
def test_a_preempted_request_returns_with_room_for_the_others_to_grow(room: int, returns: bool) -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=1000)
    running = [request(f"r{i}", 0.0, 100) for i in range(30)]
    arrive(policy, engine, *running)
    for member in running:
        admit(policy, engine, member)
    engine.queue.append(running[0])
    engine.running.remove(running[0])
    policy.on_preempt(running[0], 100, engine)
    arrive(policy, engine, request("other", 1.0, 10_000))
    needs = policy.bids["r0"].blocks + policy.reserve.blocks(engine)
    engine.free_blocks = needs + room
    assert policy.select_next(engine) is (running[0] if returns else None)
    policy.returns_with_room = False  # type: ignore[misc]
    assert policy.select_next(engine) is running[0]


@pytest.mark.parametrize(
    ("passes", "residences", "most"), [(0, 8, 0), (1, 8, 1), (100, 0.9, 1), (100, 8, 2), (100, 20, 5)]
)
def test_little_work_enters_in_place_of_an_overdue_request_that_does_not_fit(
    passes: int, residences: float, most: int
) -> None:
    policy, engine = experienced(), FakeEngine(free_blocks=80)
    policy._passes = passes
    overdue(policy, engine)
    # The longest wait, in mean residences.
    policy.prices.recent_step_s = policy._line.by_arrival.seen_s / residences / policy.remaining.mean_tokens
    engine.now_s = 8.0
    policy.bids["long"].passed_s = 1e9  # it has been passed as the head of the order, too
    costs_s = []
    while (head := policy.select_next(engine)) is not None and head.request_id != "long":
        costs_s.append(policy.bids[head.request_id].cost_s)
        admit(policy, engine, head)  # type: ignore[arg-type]
    assert head is not None
    assert sum(costs_s) >= most * policy.typical_s
    assert sum(costs_s[:-1]) < most * policy.typical_s or not most
    assert bool(costs_s) == bool(most)


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
