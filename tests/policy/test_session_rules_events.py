"""The published rules of sessions under any sequence of events that an engine may report.

Clients name their sessions or leave them to be found, several turns of one may be there at once, turns are
given up while they wait and while they run, sessions end without a word and come back long after, and a rule
may take over in the middle of it all. No rule may fail, and once nothing arrives any more every turn must
come to its end.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support import steady_profile

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.policy.published import SESSION_POLICIES
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine

NAMES = [str(rule.name) for rule in SESSION_POLICIES]
MOST_STEPS_TO_DRAIN = 10_000

_CONFIG = EngineConfig(
    num_gpu_blocks=81,
    block_size=16,
    max_num_seqs=4,
    max_num_batched_tokens=256,
    max_model_len=700,
    enable_prefix_caching=True,
)


@dataclass(frozen=True)
class Arrive:
    """So many turns of a session arrive at once; a session without a number is one of its own."""

    session: int | None
    told: bool
    ends: bool
    prompt_tokens: int
    output_tokens: int
    turns: int


@dataclass(frozen=True)
class Step:
    steps: int


@dataclass(frozen=True)
class GiveUp:
    """One of the live turns, by its place among them."""

    place: int


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class TakeOver:
    """The rule starts afresh while the engine is at work."""


Event = Arrive | Step | GiveUp | Wait | TakeOver

EVENTS: st.SearchStrategy[list[Event]] = st.lists(
    st.one_of(
        st.builds(
            Arrive,
            session=st.none() | st.integers(0, 4),
            told=st.booleans(),
            ends=st.sampled_from([False, False, True]),
            prompt_tokens=st.integers(1, 600),
            output_tokens=st.sampled_from([1, 10, 25, 90]),
            turns=st.sampled_from([1, 1, 2, 3]),
        ),
        st.builds(Step, st.integers(1, 12)),
        st.builds(GiveUp, st.integers(0, 9)),
        st.builds(Wait, st.sampled_from([0.5, 6.0, 100.0, 4000.0])),
        st.builds(TakeOver),
    ),
    min_size=30,
    max_size=60,
)


class _Server:
    """One engine under one rule."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.control = Controller(resolve(name), time_budget_s=None)
        self.engine = VllmStepEngine(_CONFIG, steady_profile(), self.control)
        self.engine.track_sessions(find_by_prefix=True)
        self._arrived = 0

    def meet(self, event: Event) -> None:
        """Let it happen."""
        engine = self.engine
        match event:
            case Arrive():
                for _ in range(event.turns):
                    self._submit(event)
            case Step():
                for _ in range(event.steps):
                    if not engine.idle:
                        engine.step()
            case GiveUp():
                live = [*engine.running, *engine.waiting()]
                if live:
                    engine.abort(live[event.place % len(live)])
            case Wait():
                engine.wait_until(engine.now_s + event.seconds)
            case TakeOver():
                self.control.switch(resolve(self._name))

    def _submit(self, event: Arrive) -> None:
        self._arrived += 1
        owner = self._arrived + 100 if event.session is None else event.session
        request = WorkloadRequest(
            f"r{self._arrived}",
            self.engine.now_s,
            event.prompt_tokens,
            event.output_tokens,
            session_id=f"s{owner}" if event.told else "",
            is_last_turn=event.told and event.ends,
            # The past of a session is the same tokens again, whoever asks for it.
            content=((owner, event.prompt_tokens),),
        )
        self.engine.submit(SimRequest(request, _CONFIG.model_len))

    def drain(self) -> None:
        """Nothing arrives any more: everyone must come to an end."""
        for _ in range(MOST_STEPS_TO_DRAIN):
            if self.engine.idle:
                return
            self.engine.step()
        raise AssertionError(f"still waiting: {self.engine.waiting()}")


@pytest.mark.parametrize("name", NAMES)
@given(events=EVENTS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_no_rule_fails_or_starves_a_turn(name: str, events: list[Event]) -> None:
    server = _Server(name)
    for event in events:
        server.meet(event)
    server.drain()
    counters = server.control.counters
    assert counters.failures == counters.session_failures == 0, server.control.breaker.reason
    assert counters.completions + counters.aborts == counters.arrivals
    assert server.engine.free_blocks == server.engine.num_blocks
