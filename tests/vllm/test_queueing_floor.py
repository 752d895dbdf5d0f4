"""`queueing-floor` on the real scheduler: the engine's own order, and idle sessions that make room."""

from __future__ import annotations

import pytest

pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")

from tests.vllm.cases import random_case
from tests.vllm.harness import run_case
from tests.vllm.ours import run_ours
from tests.vllm.session_loop import Run, random_session_case, serve_sessions

OWN, FLOOR = "preempt-evict", "queueing-floor"


def test_under_pressure_without_idle_sessions_every_step_is_the_engines_own():
    """The same steps take the same time, so throughput is the same to the last request."""
    preemptions = 0
    for seed in range(8):
        case = random_case(seed)
        own = run_case(case)
        assert run_ours(case, FLOOR)[0] == own, f"seed {seed}"
        preemptions += sum(len(step.preempted) for step in own)
    assert preemptions > 100


def test_with_idle_sessions_it_computes_no_more_and_serves_no_fewer_turns(note_figures):
    runs: dict[str, list[Run]] = {
        policy: [serve_sessions(random_session_case(seed), policy, asynchronous=False) for seed in range(16)]
        for policy in (OWN, FLOOR)
    }
    tokens = {
        policy: sum(count for run in made for step in run.steps for _, count in step.scheduled)
        for policy, made in runs.items()
    }
    turns = {policy: sum(done for run in made for *_, done in run.left) for policy, made in runs.items()}
    seconds = {policy: sum(run.left[-1][1] for run in made) for policy, made in runs.items()}
    drops = sum(len(run.drops) for run in runs[FLOOR])
    note_figures(
        f"{FLOOR} against {OWN}, 16 workloads of sessions: {drops} sessions dropped, "
        f"{tokens[FLOOR]:,} tokens computed against {tokens[OWN]:,}, {turns[FLOOR]} turns completed against "
        f"{turns[OWN]}, in {seconds[FLOOR]:,.0f} s against {seconds[OWN]:,.0f} s"
    )
    assert drops > 100
    assert tokens[FLOOR] <= tokens[OWN]
    assert turns[FLOOR] >= turns[OWN]
    assert turns[FLOOR] / seconds[FLOOR] >= 0.98 * turns[OWN] / seconds[OWN]
