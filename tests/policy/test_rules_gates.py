"""Rules that look at the future peak of memory: Past-Future, and the clairvoyant ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest, requests_of, steady_profile, workloads

from bidkv.control import Controller
from bidkv.policy import PolicySpecError, available, resolve
from bidkv.policy.published import PastFuture
from bidkv.protocol.policy import NotClairvoyantError
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate


class Oracle(FakeEngine):
    """Knows that every request generates 50 tokens."""

    def true_output_tokens(self, request: object) -> int:
        return 50


def test_clairvoyant_rules_are_marked() -> None:
    assert {name for name in available() if resolve(name).clairvoyant} == {
        "clairvoyant-sessions",
        "mc-sf",
        "peak-gate",
        "smallest-volume",
    }


def test_true_lengths_exist_in_the_simulator_only() -> None:
    with pytest.raises(NotClairvoyantError, match="simulator only"):
        FakeEngine().true_output_tokens(FakeRequest("r"))


@pytest.mark.parametrize("name", ["mc-sf", "peak-gate", "smallest-volume"])
def test_a_real_engine_switches_a_clairvoyant_rule_off_and_goes_on(name: str) -> None:
    request = FakeRequest("r")
    engine = FakeEngine(queue=[request])
    controller = Controller(resolve(name))
    controller.on_arrival(request, engine)
    controller.on_admit(request, engine)
    assert not controller.active
    assert "simulator only" in controller.breaker.reason
    assert controller.select_next(engine) is None  # the engine's own order


@pytest.mark.parametrize(("num_blocks", "enters"), [(19, True), (18, False)])
def test_the_peak_gate_adds_up_true_lengths(num_blocks: int, enters: bool) -> None:
    engine, policy = Oracle(num_blocks=num_blocks), resolve("peak-gate")
    for name in ("first", "second"):
        running = FakeRequest(name, num_prompt_tokens=36, num_computed_tokens=0)
        policy.on_arrival(running, engine)
        policy.on_admit(running, engine)
    head = FakeRequest("head", num_prompt_tokens=60, num_computed_tokens=0)
    policy.on_arrival(head, engine)
    # All end in the 50th step from now; the last token is never held: 36 + 36 + 60 + 3 * (49 + 8) = 303.
    assert policy.select_next(engine) is (head if enters else None)


def test_a_waiting_head_enters_when_memory_is_empty() -> None:
    engine, policy = Oracle(num_blocks=4), resolve("peak-gate")
    big = FakeRequest("big", num_prompt_tokens=60)
    policy.on_arrival(big, engine)
    assert policy.select_next(engine) is big


@pytest.mark.parametrize("name", ["mc-sf", "peak-gate", "smallest-volume"])
@given(requests=workloads())
@settings(max_examples=60, deadline=None)
def test_with_true_lengths_nobody_is_preempted(name: str, requests: list[WorkloadRequest]) -> None:
    # Blocks of one token and prefills of one step: the predicted peak is exact.
    config = EngineConfig(num_gpu_blocks=121, block_size=1, max_num_seqs=8, max_num_batched_tokens=5000)
    result = simulate(requests, resolve(name), config, steady_profile(), backend="python")
    assert result.totals.preemptions == 0
    assert len(result.completed) == len(requests)
    assert result.notes["control"]["failures"] == 0


def test_smallest_volume_runs_a_long_output_behind_a_short_prompt_before_its_opposite() -> None:
    # Volumes of 1,208, 938 and 115.5 token-steps: the shortest output is not the smallest volume.
    requests = requests_of((300, 4), (60, 14), (5, 11))
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=1)
    order = {}
    for name in ("smallest-volume", "mc-sf"):
        result = simulate(requests, resolve(name), config, steady_profile(), backend="python")
        finished = sorted(result.completed, key=lambda record: record.finish_s or 0.0)
        order[name] = [record.request_id for record in finished]
    assert order == {"smallest-volume": ["r2", "r1", "r0"], "mc-sf": ["r0", "r2", "r1"]}


def test_mc_sf_runs_the_shortest_outputs_first() -> None:
    requests = requests_of((5, 9), (5, 3), (5, 7), (5, 1))
    config = EngineConfig(num_gpu_blocks=40, max_num_seqs=1)
    result = simulate(requests, resolve("mc-sf"), config, steady_profile(), backend="python")
    assert [record.output_tokens for record in result.records] == [1, 3, 7, 9]


def history_of(policy: PastFuture, lengths: list[int], engine: FakeEngine) -> None:
    for index, length in enumerate(lengths):
        done = FakeRequest(f"done{index}", num_output_tokens=length)
        policy.on_arrival(done, engine)
        policy.on_admit(done, engine)
        policy.on_finish(done, engine, completed=True)


def test_past_future_holds_back_what_the_past_says_will_not_fit() -> None:
    engine, policy = FakeEngine(num_blocks=20), PastFuture()
    history_of(policy, [60] * 50, engine)
    running = FakeRequest("running", num_prompt_tokens=100, num_computed_tokens=0)
    policy.on_arrival(running, engine)
    policy.on_admit(running, engine)
    small = FakeRequest("small", num_prompt_tokens=40, num_computed_tokens=0)
    policy.on_arrival(small, engine)
    # 100 + 40 + 2 * (59 + 8) = 274 of 304 tokens (95 % of 320).
    assert policy.select_next(engine) is small
    policy.on_admit(small, engine)
    third = FakeRequest("third", num_prompt_tokens=40, num_computed_tokens=0)
    policy.on_arrival(third, engine)
    assert policy.select_next(engine) is None
    policy.on_finish(running, engine, completed=True)
    assert policy.select_next(engine) is third


def test_past_future_forgets_what_left_the_window() -> None:
    engine, policy = FakeEngine(num_blocks=20), PastFuture(window=10)
    history_of(policy, [5000] * 10 + [5] * 10, engine)
    running = FakeRequest("running", num_prompt_tokens=100, num_computed_tokens=0)
    head = FakeRequest("head", num_prompt_tokens=100, num_computed_tokens=0)
    for request in (running, head):
        policy.on_arrival(request, engine)
    policy.on_admit(running, engine)
    assert policy.select_next(engine) is head


def test_past_future_expects_the_cap_before_anything_finished() -> None:
    engine, policy = FakeEngine(num_blocks=20), PastFuture()
    running = FakeRequest("running", num_prompt_tokens=100, num_computed_tokens=0, max_tokens=150)
    head = FakeRequest("head", num_prompt_tokens=100, num_computed_tokens=0, max_tokens=150)
    for request in (running, head):
        policy.on_arrival(request, engine)
    policy.on_admit(running, engine)
    assert policy.select_next(engine) is None
    head.max_tokens = running.max_tokens = None  # now nothing at all is known
    policy.on_admit(running, engine)
    assert policy.select_next(engine) is head


@given(
    history=st.lists(st.integers(1, 500), max_size=30),
    generated=st.integers(0, 600),
    cap=st.one_of(st.none(), st.integers(601, 700)),
)
@settings(deadline=None)
def test_past_future_draws_between_what_is_generated_and_the_cap(
    history: list[int], generated: int, cap: int | None
) -> None:
    policy = PastFuture()
    history_of(policy, history, FakeEngine())
    request = FakeRequest("r", num_output_tokens=generated, max_tokens=cap)
    for _ in range(20):
        total = generated + policy._draw_remaining(request)
        assert total > generated
        if cap is not None:
            assert total <= cap
        elif history and generated < max(history):
            assert total <= max(history)


@pytest.mark.parametrize("option", ["window=0", "kept_free=1.0", "scenarios=0"])
def test_impossible_options_are_refused(option: str) -> None:
    with pytest.raises(PolicySpecError, match=option.split("=")[0]):
        resolve(f"past-future:{option}")
