"""The predicted peak of memory against memory counted step by step."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support import FakeEngine, FakeRequest

from bidkv.policy.published.future_memory import ArrivalOrder, FutureMemory


def counted_peak(requests: list[tuple[FakeRequest, int]], engine: FakeEngine) -> int:
    """Let each request compute until it is done; return the most tokens held at once.

    A request holds all its pending positions from the step that computes the last of them; memory before
    that is not a peak of its own.
    """
    held_at: dict[int, int] = {}
    for request, remaining in requests:
        tokens = request.num_prompt_tokens + request.num_output_tokens
        pending = max(1, tokens - request.num_computed_tokens)
        first = -(-pending // engine.max_num_batched_tokens) - 1
        for step in range(first + remaining):
            # While it prefills, count it as if it had decoded up to its first token: what the rule does.
            held_at[step] = held_at.get(step, 0) + tokens + engine.block_size // 2 + step - first
    return max(held_at.values())


@st.composite
def live(draw: st.DrawFn, name: str) -> tuple[FakeRequest, int]:
    """A request in any state, and how much it will still generate."""
    prompt, generated = draw(st.integers(1, 60)), draw(st.integers(0, 20))
    computed = draw(st.sampled_from([0, prompt + generated - 1]))
    request = FakeRequest(
        name, num_prompt_tokens=prompt, num_output_tokens=generated, num_computed_tokens=computed
    )
    return request, draw(st.integers(1, 30))


@given(st.data(), st.integers(0, 6), st.sampled_from([1, 16]))
@settings(deadline=None)
def test_the_peak_is_the_one_counted(data: st.DataObject, count: int, block_size: int) -> None:
    engine = FakeEngine(block_size=block_size, max_num_batched_tokens=16, num_steps=7)
    running = [data.draw(live(f"r{index}")) for index in range(count)]
    newcomer = data.draw(live("new"))
    memory = FutureMemory()
    for request, remaining in running:
        memory.add(request, remaining, engine)
    assert len(memory) == count
    assert memory.peak_tokens_with(*newcomer, engine) == counted_peak([*running, newcomer], engine)
    if running:
        gone = data.draw(st.sampled_from(running))
        memory.discard(gone[0])
        rest = [entry for entry in running if entry is not gone]
        assert memory.peak_tokens_with(*newcomer, engine) == counted_peak([*rest, newcomer], engine)


def test_requests_that_outlive_their_prediction_are_handed_back() -> None:
    engine, memory = FakeEngine(), FutureMemory()
    short, long = FakeRequest("short"), FakeRequest("long")
    memory.add(short, 3, engine)
    memory.add(long, 9, engine)
    engine.num_steps = 2  # the step of short's third token is still to come
    assert memory.take_overdue(engine) == []
    engine.num_steps = 3
    assert memory.take_overdue(engine) == [short]
    assert len(memory) == 1
    memory.discard(short)  # unknown by now
    assert len(memory) == 1


def test_arrival_order_is_the_engines() -> None:
    queue = ArrivalOrder()
    first, second, preempted = FakeRequest("1"), FakeRequest("2"), FakeRequest("p")
    queue.append(first)
    queue.append(second)
    queue.prepend(preempted)
    assert queue.first() is preempted
    queue.discard(preempted)
    assert queue.first() is first
    queue.discard(first)
    queue.discard(first)
    queue.discard(second)
    assert queue.first() is None
