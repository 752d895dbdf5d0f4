"""Sessions behind a KV connector: the measured cost of a lost past decides whether sessions are kept."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest
from tests.vllm.cases import Case, EngineShape
from tests.vllm.remote_store import remote_store
from tests.vllm.session_loop import Run, SessionCase, serve_sessions
from vllm.v1.core.sched.output import SchedulerOutput

from bidkv.adapters.vllm.restoring import LEAST_RETURNS
from bidkv.protocol.sessions import Session, SessionArrivals, Turn

SESSIONS, AT_ONCE, BLOCKS = 20, 10, 1500


def thrashing_case(seed: int) -> SessionCase:
    """Agents whose pasts together are three times the memory."""
    draw = random.Random(seed)
    sessions = tuple(
        Session(
            f"s{number:02d}",
            tuple(
                Turn(
                    draw.randint(1500, 2500) if turn == 0 else draw.randint(300, 900),
                    draw.randint(8, 24),
                    gap_s=0.0 if turn == 0 else draw.choice((0.05, 0.1, 0.4)),
                )
                for turn in range(draw.randint(5, 8))
            ),
            chunk_tokens=64,
        )
        for number in range(SESSIONS)
    )
    shape = EngineShape(
        num_blocks=BLOCKS,
        max_num_seqs=32,
        max_num_batched_tokens=2048,
        max_model_len=12_000,
        prefix_caching=True,
    )
    arrivals = SessionArrivals.at_concurrency(AT_ONCE, stagger_s=0.05)
    return SessionCase(Case(shape, (), 64, seed), sessions, arrivals, None)


def step_s(output: SchedulerOutput) -> float:
    """About an H100's step: a fixed part, and a part for each token computed; next to nothing when empty."""
    tokens = output.total_num_scheduled_tokens
    return 8e-3 + 6e-5 * tokens if tokens else 1e-3


def mean_turn_s(run: Run, case: SessionCase) -> float:
    """The time at which turns ended, in the mean: in a closed loop that is what a shorter turn shortens."""
    assert len(run.left) == sum(len(session.turns) for session in case.sessions)
    assert all(completed for _, _, completed in run.left)
    return fmean(second for _, second, _ in run.left)


class Seen:
    """What the adapter had measured and done when everything was served."""

    def __call__(self, scheduler: Any) -> None:
        self.engine = scheduler.bidkv.glue.engine
        self.counters = scheduler.bidkv.controller.counters
        self.figures = scheduler.bidkv.controller.sessions.figures


def serve(seed: int, policy: str | None, **store: int) -> tuple[float, Seen]:
    case = thrashing_case(seed)
    engine = {"kv_transfer": remote_store(**store)}
    seen = Seen()
    watch = None if policy is None else seen
    run = serve_sessions(case, policy, asynchronous=True, engine=engine, step_s=step_s, watch=watch)
    return mean_turn_s(run, case), seen


@pytest.mark.parametrize("load_steps", [0, 3])
def test_where_every_past_is_brought_back_sessions_is_no_worse_than_without_bidkv(
    load_steps, campaign, note_figures
):
    ratios = []
    for seed in range(20 if campaign else 2):
        alone, _ = serve(seed, None, load_steps=load_steps)
        ours, seen = serve(seed, "sessions", load_steps=load_steps)
        ratios.append(ours / alone)
        assert seen.engine.restoring.num_lost_pasts > LEAST_RETURNS
        assert seen.engine.lost_past_price < 0.5
        assert seen.counters.session_drops == 0, "nothing is dropped that comes back for next to nothing"
        assert seen.counters.failures == seen.counters.session_failures == 0
    note_figures(
        f"a connector that brings every past back, {load_steps} steps: mean end of a turn under sessions / "
        f"without bidkv {fmean(ratios):.3f}, worst {max(ratios):.3f} of {len(ratios)}; a lost token costs "
        f"{seen.engine.lost_past_price:.3f} computed ones"
    )
    assert fmean(ratios) <= 1.01
    assert max(ratios) <= 1.03


def test_where_no_past_is_brought_back_sessions_are_kept_as_without_a_connector(campaign, note_figures):
    ratios = []
    for seed in range(20 if campaign else 2):
        alone, _ = serve(seed, None, forgets=1)
        ours, seen = serve(seed, "sessions", forgets=1)
        ratios.append(ours / alone)
        assert seen.engine.lost_past_price > 0.9
        assert seen.counters.session_drops > 0
        assert seen.counters.failures == seen.counters.session_failures == 0
    note_figures(
        f"a connector that brings nothing back: mean end of a turn under sessions / without bidkv "
        f"{fmean(ratios):.3f}, worst {max(ratios):.3f} of {len(ratios)}"
    )
    assert fmean(ratios) < 0.9
