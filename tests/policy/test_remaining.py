"""Lengths learned from finished requests."""

from __future__ import annotations

from tests.policy.hand_set import request
from tests.support import FakeEngine

from bidkv.policy.parts.remaining import RemainingTokens


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
