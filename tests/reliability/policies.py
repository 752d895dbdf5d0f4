"""A policy that fails at random, and that keeps books of its own which must always be right."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.support import FakeClock

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class Unreliable(Policy):
    """Answers every question, at times with nonsense or by raising; keeps books that must be right."""

    name = "unreliable"

    def __init__(self, seed: int, fault_rate: float, budget_clock: FakeClock | None = None) -> None:
        self.random = random.Random(seed)
        self.budget_clock = budget_clock
        self.fault_rate = fault_rate
        self.waits: set[str] = set()
        self.runs: set[str] = set()

    def answer(self, good: object) -> object:
        if self.random.random() >= self.fault_rate:
            return good
        fault = self.random.randrange(5)
        if fault == 0:
            raise RuntimeError("unreliable")
        if fault == 1 and self.budget_clock is not None:
            self.budget_clock.now_s += 1.0  # a good answer, far too late
            return good
        return ("nonsense", -1, object())[fault % 3]

    def check(self, engine: EngineView) -> None:
        # What it was told must be what is, also after it was started afresh in the middle of a run.
        assert self.waits == {request.request_id for request in engine.waiting()}
        assert self.runs == {request.request_id for request in engine.running}

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        self.check(engine)
        return self.answer(self.random.choice([*candidates, None]))  # type: ignore[return-value]

    def select_next(self, engine: EngineView) -> RequestView | None:
        self.check(engine)
        return self.answer(self.random.choice([*engine.waiting(), None]))  # type: ignore[return-value]

    def reserve_blocks(self, engine: EngineView) -> int:
        self.check(engine)
        return self.answer(self.random.randrange(4))  # type: ignore[return-value]

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        assert request.request_id not in self.waits | self.runs
        self.waits.add(request.request_id)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self.waits.remove(request.request_id)
        self.runs.add(request.request_id)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        self.runs.remove(request.request_id)
        self.waits.add(request.request_id)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        (self.runs if request.request_id in self.runs else self.waits).remove(request.request_id)
