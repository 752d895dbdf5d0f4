"""`queueing-floor`: idle sessions may hold only the memory that the flow of requests does not need."""

from __future__ import annotations

from collections.abc import Mapping

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionView
from bidkv.stability import QueueingConfig, QueueingController


class _EventClock:
    """The engine's time at the last event: answers must not change between events."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class QueueingFloor(Policy):
    """Leaves the flow of requests lambda * E[S] * E[blocks] * margin blocks; the engine's own order
    otherwise.

    By Little's law that is the mean number of blocks the flow uses. The queueing controller compares it
    with the blocks that no idle session retains, and what is missing is its eviction target: the session
    idle for longest is dropped until the target is met (INVARIANT-11), and no two targets are set within
    the controller's eviction interval. Without idle sessions nothing is held back.

    Args:
        margin: factor on the mean number of blocks in use, at least 1.
        window_s: time constant of the estimates, seconds.
    """

    name = "queueing-floor"

    def __init__(self, *, margin: float = 1.15, window_s: float = 60.0) -> None:
        self._clock = _EventClock()
        self._config = QueueingConfig(safety_margin=margin, window_seconds=window_s)
        self.controller = QueueingController(self._config, clock=self._clock)
        self._admitted_s: dict[str, float] = {}
        self._target_retained: int | None = None  # blocks that idle sessions may retain until the next event

    def select_drop(self, idle: Mapping[str, SessionView], engine: EngineView) -> SessionView | None:
        """Return the session idle for longest while idle sessions retain more than the floor leaves them."""
        sessions = engine.sessions
        if sessions is None:
            return None
        retained, blocks = sessions.retained_blocks, engine.num_blocks
        if self._target_retained is None:
            evicted = self.controller.get_eviction_target_blocks(max(blocks - retained, 0), blocks, 0)
            self._target_retained = retained - evicted
        return next(iter(idle.values())) if retained > self._target_retained else None

    def _event(self, engine: EngineView) -> None:
        self._clock.now_s = engine.now_s
        self._target_retained = None

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Count it."""
        self._event(engine)
        self.controller.record_request_arrival(engine.now_s, request.num_prompt_tokens, request.agent_id)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Note when its service begins; after a preemption it continues."""
        self._event(engine)
        self._admitted_s.setdefault(request.request_id, engine.now_s)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Note the time."""
        self._event(engine)

    def on_turn_end(self, session: SessionView, engine: EngineView) -> None:
        """Note the time: one more session is idle."""
        self._event(engine)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn its service time and its blocks."""
        self._event(engine)
        admitted_s = self._admitted_s.pop(request.request_id, None)
        if completed and admitted_s is not None:
            tokens = request.num_prompt_tokens + request.num_output_tokens
            self.controller.record_request_completion(
                engine.now_s,
                (engine.now_s - admitted_s) * 1e3,
                -(-tokens // engine.block_size),
                request.agent_id,
            )
