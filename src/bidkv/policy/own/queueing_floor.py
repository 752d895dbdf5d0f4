"""`queueing-floor`: the queueing controller's floor as a gate, for those who ask for it by name."""

from __future__ import annotations

from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView
from bidkv.stability import QueueingConfig, QueueingController


class _EventClock:
    """The engine's time at the last event: answers must not change between events."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class QueueingFloor(Policy):
    """An admission leaves lambda * E[S] * E[blocks] * margin blocks free; the engine's own order otherwise.

    By Little's law that is the mean number of blocks in use, so a busy server stops admitting near half of
    its memory: the queue grows where other rules would still serve. :class:`Fair` keeps a
    reserve that pays instead.

    Args:
        margin: factor on the mean number of blocks in use, at least 1.
        window_s: time constant of the estimates, seconds.
    """

    name = "queueing-floor"

    def __init__(self, *, margin: float = 1.15, window_s: float = 60.0) -> None:
        self._clock = _EventClock()
        self._config = QueueingConfig(safety_margin=margin, window_seconds=window_s)
        self._controller = QueueingController(self._config, clock=self._clock)
        self._admitted_s: dict[str, float] = {}

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the floor; at most all blocks."""
        state = self._controller.compute_stability_state(engine.free_blocks, engine.num_blocks)
        return state.minimum_stable_blocks

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Count it."""
        self._clock.now_s = engine.now_s
        self._controller.record_request_arrival(engine.now_s, request.num_prompt_tokens, request.agent_id)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Its service begins; after a preemption it goes on."""
        self._clock.now_s = engine.now_s
        self._admitted_s.setdefault(request.request_id, engine.now_s)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Look at the clock."""
        self._clock.now_s = engine.now_s

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Take in its service time and its blocks."""
        self._clock.now_s = engine.now_s
        admitted_s = self._admitted_s.pop(request.request_id, None)
        if completed and admitted_s is not None:
            tokens = request.num_prompt_tokens + request.num_output_tokens
            self._controller.record_request_completion(
                engine.now_s,
                (engine.now_s - admitted_s) * 1e3,
                -(-tokens // engine.block_size),
                request.agent_id,
            )
