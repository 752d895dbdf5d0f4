"""An engine that is short of memory, and policies and checks for it."""

from __future__ import annotations

from tests.support import FakeEngine, FakeRequest

from bidkv.control import Controller
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


def engine_under_pressure(count: int = 4) -> FakeEngine:
    """Every running request needs a block, none is free, a victim frees two; two requests wait."""
    return FakeEngine(
        running=[FakeRequest(f"r{index}") for index in range(count)],
        queue=[FakeRequest("w0", num_computed_tokens=0), FakeRequest("w1", num_computed_tokens=0)],
    )


def assert_switched_off(control: Controller, kind: str) -> None:
    assert not control.active
    assert control.breaker.is_open
    assert control.breaker.failures == {kind: 1}
    assert control.counters.failures == 1
    assert not any((control.chooses_victims, control.chooses_next, control.keeps_reserve))


class Diary(Policy):
    """Writes down what it is told, and what it is asked."""

    name = "diary"

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        self.entries.append(("arrival", request.request_id))

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        self.entries.append(("admit", request.request_id))

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        self.entries.append(("preempt", request.request_id))

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        self.entries.append(("finish", request.request_id))

    def select_next(self, engine: EngineView) -> RequestView | None:
        self.entries.append(("asked", ""))
        return engine.waiting()[-1]


def one_of_each_event(control: Controller, engine: FakeEngine) -> None:
    request = engine.running[0]
    control.on_arrival(request, engine)
    control.on_admit(request, engine)
    control.on_preempt(request, 32, engine)
    control.on_finish(request, engine, completed=True)
