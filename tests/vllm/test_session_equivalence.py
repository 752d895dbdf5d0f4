"""Sessions in closed loop with prefix caching: the simulator does what real vLLM does, step by step.

Compared are the requests and tokens of every step, its victims, the cached tokens of every admission, the
queue of free blocks block by block, and when every turn left.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.vllm.session_loop import Run, random_session_case, serve_sessions, simulate_sessions_case

from bidkv.policy import catalog, resolve
from bidkv.policy.published import SessionFcfs
from bidkv.protocol import EngineView, RequestView

OTHER_POLICIES = (
    "fair",
    "kv-ttl",
    "fast",
    "longest-prefix-first",
    "on-time",
    "reuse-prediction",
    "program-pausing",
    "session-fcfs",
    "most-remaining",
    "agent-congestion",
)
"""Run in turn beside `sessions`, which every workload meets; all of them in the campaign."""


def assert_equal_runs(simulated: Run, real: Run, case: str) -> None:
    for number, (ours, theirs) in enumerate(zip(simulated.steps, real.steps, strict=False)):
        assert ours == theirs, f"{case}, step {number}"
        assert simulated.free_blocks[number] == real.free_blocks[number], f"{case}, step {number}"
    assert simulated.hits == real.hits, case
    assert simulated.left == real.left, case
    assert len(simulated.steps) == len(real.steps), case


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
@pytest.mark.parametrize("kind", ["fcfs", "priority"])
def test_sessions_run_as_in_vllm(
    asynchronous: bool, kind: str, campaign: bool, note_figures: Callable[[str], None]
) -> None:
    count = 200 if campaign else 30
    if kind == "priority":
        count //= 3
    preemptions = hits = steps = given_up = drops = 0
    for seed in range(count):
        case = random_session_case(seed, scheduling_policy=kind)
        others = OTHER_POLICIES if campaign else (OTHER_POLICIES[seed % len(OTHER_POLICIES)],)
        for policy in (None, "sessions", *others):
            real = serve_sessions(case, policy, asynchronous=asynchronous)
            simulated = simulate_sessions_case(
                case, resolve(policy or "preempt-evict"), asynchronous=asynchronous
            )
            assert_equal_runs(simulated, real, f"seed {seed}, {policy}")
            assert simulated.drops == real.drops, f"seed {seed}, {policy}"
            drops += len(real.drops)
            steps += len(real.steps)
            preemptions += sum(len(step.preempted) for step in real.steps)
            hits += sum(tokens for _, tokens in real.hits)
            given_up += sum(not completed for _, _, completed in real.left)
    mode = "asynchronous" if asynchronous else "synchronous"
    note_figures(
        f"sessions, {mode}, {kind}: {count} workloads, {steps} steps, {preemptions} preemptions, "
        f"{hits} tokens from the cache, {drops} sessions dropped, {given_up} turns given up: 0 differences"
    )
    assert preemptions > count
    assert hits > 100 * count
    assert drops > count
    assert given_up > 0


class _Failing(SessionFcfs):
    """Raises in the middle of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 0

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self.left += 1
        if self.left == 6:
            raise KeyError(request.request_id)
        super().on_finish(request, engine, completed=completed)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_a_policy_that_fails_leaves_both_alone_alike(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(catalog._CATALOG, "session-fcfs", _Failing)
    for seed in (1, 5):
        case = random_session_case(seed)
        caplog.clear()
        real = serve_sessions(case, "session-fcfs", asynchronous=asynchronous)
        simulated = simulate_sessions_case(case, _Failing(), asynchronous=asynchronous)
        assert_equal_runs(simulated, real, f"seed {seed}")
        assert sum("is switched off" in record.message for record in caplog.records) == 2
