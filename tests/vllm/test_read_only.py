"""A policy that writes to everything it is shown changes nothing in real vLLM."""

from __future__ import annotations

import pytest
from tests.faulty_policies import Writes, members
from tests.vllm.session_loop import random_session_case, serve_sessions
from tests.vllm.test_session_equivalence import assert_equal_runs

from bidkv.policy import catalog
from bidkv.protocol.policy import EngineView
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable, SessionView


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_it_goes_on_as_with_one_that_only_looks(asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Writes] = []

    class Kept(Writes):
        def __init__(self, *, writes: bool = True) -> None:
            super().__init__(writes=writes)
            made.append(self)

    monkeypatch.setitem(catalog._CATALOG, "writes", Kept)
    case = random_session_case(1)
    writing = serve_sessions(case, "writes", asynchronous=asynchronous)
    looking = serve_sessions(case, "writes:writes=false", asynchronous=asynchronous)
    assert_equal_runs(writing, looking, "writing")
    assert sum(len(step.preempted) for step in looking.steps) > 0
    protocols = (EngineView, RequestView, SessionTable, SessionView)
    everything = {f"{each.__name__}.{name}" for each in protocols for name in members(each)}
    assert set().union(*(policy.tried for policy in made)) == everything
    assert set().union(*(policy.written for policy in made)) == set()
