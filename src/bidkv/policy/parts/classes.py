"""Carries a policy into an engine with user priorities: it decides only within a class of equal priority."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView


@dataclass(slots=True)
class _Class:
    """One user priority: the policy copy that knows this class alone, its live and its waiting requests."""

    policy: Policy
    live: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)


class WithinClasses(Policy):
    """Carries a policy into an engine that schedules by user priority (vLLM's sign: lower is more important).

    Victims are chosen among the running requests of the least important class. For admissions every class
    has a copy of the policy that knows this class's requests alone, and the most important class that waits
    is asked; one more copy hears everything and answers the other questions.
    """

    def __init__(self, policy: Policy) -> None:
        self.name = policy.name
        self.victim_rule = f"of the least important class, {policy.victim_rule}"
        self.preemption_cap = policy.preemption_cap
        self.reads_sessions = policy.reads_sessions
        self._whole = policy
        self._pristine = copy.deepcopy(policy)
        self._classes: dict[int, _Class] = {}

    @property
    def chooses_victims(self) -> bool:
        """Whether the wrapped policy does."""
        return self._whole.chooses_victims

    @property
    def chooses_next(self) -> bool:
        """Whether the wrapped policy does."""
        return self._whole.chooses_next

    @property
    def keeps_reserve(self) -> bool:
        """Whether the wrapped policy does."""
        return self._whole.keeps_reserve

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Choose within the least important class among the candidates."""
        least_important = max(request.priority for request in candidates)
        inside = [request for request in candidates if request.priority == least_important]
        return self._whole.select_victim(inside, need_blocks, engine)

    def victim_terms(self, request: RequestView, engine: EngineView) -> dict[str, float]:
        """Ask the copy that chose."""
        return self._whole.victim_terms(request, engine)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Choose within the most important class that waits."""
        waiting = [priority for priority, members in self._classes.items() if members.waiting]
        return self._classes[min(waiting)].policy.select_next(engine) if waiting else None

    @property
    def drops_idle(self) -> bool:
        """Whether the wrapped policy does."""
        return self._whole.drops_idle

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Ask the copy that hears everything."""
        return self._whole.select_drop(idle, engine)

    @property
    def drops_parts(self) -> bool:
        """Whether the wrapped policy does."""
        return self._whole.drops_parts

    def drop_blocks(self, session: SessionView, engine: EngineView) -> int | None:
        """Ask the copy that chose."""
        return self._whole.drop_blocks(session, engine)

    def drop_terms(self, session: SessionView, engine: EngineView) -> dict[str, float]:
        """Ask the copy that chose."""
        return self._whole.drop_terms(session, engine)

    def read_figures(self, engine: EngineView) -> dict[str, float]:
        """Ask the copy that is told everything."""
        return self._whole.read_figures(engine)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Tell the copy that hears everything, and that of the session's class."""
        self._whole.on_turn_end(session, engine)
        members = self._classes.get(session.priority)
        if members is not None:
            members.policy.on_turn_end(session, engine)

    def on_session_end(self, session: SessionView, engine: EngineView) -> None:
        """Tell the copy that hears everything, and that of the session's class."""
        self._whole.on_session_end(session, engine)
        members = self._classes.get(session.priority)
        if members is not None:
            members.policy.on_session_end(session, engine)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Ask the copy that hears everything."""
        return self._whole.reserve_blocks(engine)

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Tell the copy that hears everything, and the request's class."""
        self._whole.on_arrival(request, engine)
        if not self.chooses_next:
            return
        if request.priority not in self._classes:
            self._classes[request.priority] = _Class(copy.deepcopy(self._pristine))
        members = self._classes[request.priority]
        members.live.add(request.request_id)
        members.waiting.add(request.request_id)
        members.policy.on_arrival(request, engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Tell the copy that hears everything, and the request's class."""
        self._whole.on_admit(request, engine)
        if self.chooses_next:
            members = self._classes[request.priority]
            members.waiting.discard(request.request_id)
            members.policy.on_admit(request, engine)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Tell the copy that hears everything, and the request's class."""
        self._whole.on_preempt(request, lost_tokens, engine)
        if self.chooses_next:
            members = self._classes[request.priority]
            members.waiting.add(request.request_id)
            members.policy.on_preempt(request, lost_tokens, engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Tell the copy that hears everything, and the request's class; an empty class is forgotten."""
        self._whole.on_finish(request, engine, completed=completed)
        if self.chooses_next:
            members = self._classes[request.priority]
            members.waiting.discard(request.request_id)
            members.live.discard(request.request_id)
            members.policy.on_finish(request, engine, completed=completed)
            if not members.live:
                # Clients choose priorities: classes without requests must not accumulate.
                del self._classes[request.priority]
