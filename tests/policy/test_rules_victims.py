"""Published victim rules on small states, each against its formula written out by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest

from bidkv.policy import resolve


def test_most_remaining_takes_who_may_generate_the_most() -> None:
    requests = [
        FakeRequest("nearly-done", num_output_tokens=90, max_tokens=100),
        FakeRequest("young", num_output_tokens=10, max_tokens=100),
        FakeRequest("short", num_output_tokens=0, max_tokens=20),
    ]
    assert resolve("most-remaining").select_victim(requests, 1, FakeEngine(requests)) is requests[1]


def test_most_remaining_expects_a_request_without_a_cap_to_fill_the_cache() -> None:
    requests = [
        FakeRequest("capped", max_tokens=1500),
        FakeRequest("open", num_prompt_tokens=32),  # 100 blocks of 16: 1,568 tokens are left
    ]
    assert resolve("most-remaining").select_victim(requests, 1, FakeEngine(requests)) is requests[1]
    requests[0].max_tokens = 1600
    assert resolve("most-remaining").select_victim(requests, 1, FakeEngine(requests)) is requests[0]


def test_pr_56897_weighs_blocks_per_token_by_what_is_left() -> None:
    full = FakeRequest("full", num_prompt_tokens=32, num_held_blocks=2, num_output_tokens=0, max_tokens=10)
    half = FakeRequest("half", num_prompt_tokens=27, num_held_blocks=2, num_output_tokens=5, max_tokens=10)
    dense = FakeRequest("dense", num_prompt_tokens=17, num_held_blocks=2, num_output_tokens=0, max_tokens=10)
    policy = resolve("pr-56897")
    # Scores: 2/32, 2/32 * 1/2 and 2/17.
    assert policy.select_victim([full, half], 1, FakeEngine()) is full
    assert policy.select_victim([full, dense, half], 1, FakeEngine()) is dense


@st.composite
def crowds(draw: st.DrawFn) -> list[FakeRequest]:
    """Running requests with few distinct figures, so that ties are common."""
    return [
        FakeRequest(
            f"r{index}",
            num_prompt_tokens=draw(st.integers(1, 40)),
            num_output_tokens=draw(st.integers(0, 3)),
            num_held_blocks=draw(st.integers(1, 3)),
            max_tokens=draw(st.sampled_from([None, 4, 8])),
            priority=draw(st.integers(-1, 1)),
            arrival_s=float(draw(st.integers(0, 2))),
        )
        for index in range(draw(st.integers(1, 8)))
    ]


@given(requests=crowds())
@settings(deadline=None)
def test_the_score_of_pr_56897_is_the_highest_and_of_equals_the_later_goes(
    requests: list[FakeRequest],
) -> None:
    def score(r: FakeRequest) -> float:
        cap = 1600 - r.num_prompt_tokens if r.max_tokens is None else r.max_tokens
        return (
            r.num_held_blocks / (r.num_prompt_tokens + r.num_output_tokens) * (1 - r.num_output_tokens / cap)
        )

    victim = resolve("pr-56897").select_victim(requests, 1, FakeEngine(requests))
    highest = max(map(score, requests))
    assert victim is [r for r in requests if score(r) == highest][-1]


@given(requests=crowds())
@settings(deadline=None)
def test_priority_preempts_the_least_important_of_them_the_latest(requests: list[FakeRequest]) -> None:
    victim = resolve("priority").select_victim(requests, 1, FakeEngine(requests))
    worst = max((r.priority, r.arrival_s) for r in requests)
    assert victim is [r for r in requests if (r.priority, r.arrival_s) == worst][-1]
