"""What `fair`, `fast` and `on-time` share: victims, the reserve, and options that are checked."""

from __future__ import annotations

import pytest
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import PolicySpecError, resolve
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.reserve import AdmissionRoom, SelfTuningReserve


@pytest.mark.parametrize("name", ["fair", "fast", "on-time"])
@pytest.mark.parametrize(
    ("computed", "chosen"),
    [([100, 300, 50, 200], 2), ([100, 100, 100], 2), ([100, 150, 151], 1), ([0, 1, 2], 0)],
)
def test_the_latest_of_the_cheapest_to_repeat_goes(name: str, computed: list[int], chosen: int) -> None:
    running = [FakeRequest(f"r{i}", num_computed_tokens=tokens) for i, tokens in enumerate(computed)]
    assert resolve(name).select_victim(running, 1, FakeEngine(running=running)) is running[chosen]


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


@pytest.mark.parametrize(("running", "kept"), [(2, 0), (10, 5), (20, 15), (100, 20)])
def test_a_new_request_leaves_what_is_taken_until_it_has_earned_a_part_of_its_recompute(
    running: int, kept: int
) -> None:
    prices = MachinePrices()
    prices.recent_step_s, prices.token_s, prices.footprint = 0.01, 4e-5, 0.01
    reserve = SelfTuningReserve(prices, gain=7.0, unit=0.6, overhead_s=1e-3)
    engine = FakeEngine(running=[FakeRequest(f"r{i}") for i in range(running)], num_blocks=1000, now_s=1.0)
    # A quarter of 40 us a token, in steps of 10 ms: 1/1000 of the memory for each that runs.
    share = min(0.25 * 4e-5 / 0.01 * running, 0.025) - 0.01 / 2
    assert reserve.earning_blocks(engine) == pytest.approx(max(1000 * share, 0), abs=1)
    assert reserve.earning_blocks(engine) == pytest.approx(kept, abs=1)


def test_none_of_it_is_kept_for_tokens_that_cost_nothing_to_restore() -> None:
    engine = FakeEngine(running=[FakeRequest(f"r{i}") for i in range(100)], num_blocks=10_000, now_s=1.0)
    reserve = SelfTuningReserve(MachinePrices(), gain=7.0, unit=0.6, overhead_s=1e-3)
    assert reserve.earning_blocks(engine) == 250
    engine.lost_token_price = 0.0
    assert reserve.earning_blocks(engine) == 0


def test_fair_leaves_it_only_while_none_waits_to_return() -> None:
    policy = resolve("fair")
    running = [FakeRequest(f"r{i}") for i in range(100)]
    engine = FakeEngine(running=running, num_blocks=10_000, now_s=1.0)
    assert policy.reserve_blocks(engine) == 250
    returning = FakeRequest("returns", num_computed_tokens=0)
    policy.on_preempt(returning, 0, engine)
    assert policy.reserve_blocks(engine) < 250


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
