"""What `fair`, `fast` and `on-time` share: victims cheap to recompute, learned prices and a self-tuning
reserve."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.policy.parts.cap import validate_cap
from bidkv.policy.parts.found_again import FoundAgain
from bidkv.policy.parts.prices import MachinePrices
from bidkv.policy.parts.recompute import cheapest_to_recompute
from bidkv.policy.parts.reserve import SelfTuningReserve
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView

DEFAULT_PREEMPTION_CAP = 8
"""Times one request may be chosen as a victim: beyond that it makes little progress between preemptions."""


class ReservingPolicy(Policy):
    """Base of this project's own policies: it answers which request is preempted and how much stays free.

    A subclass orders the waiting requests and calls the event methods here from its own. Where most of what
    preemptions throw away is found in the prefix cache again, the victim is the last one admitted.

    Args:
        cap: preemptions after which a request is no longer chosen, at least 1.
        gain: speed of the reserve, per second.
        unit: sensitivity of the reserve, in footprints of one request.
        overhead_s: seconds a preemption costs beside its recomputed tokens.
    """

    victim_rule = "the most recently admitted among those within 1.5x of the fewest computed tokens"

    # Read dozens of times a request: slots are found in half the time that a dict takes once it was copied.
    __slots__ = (
        "_output_at_admission",
        "found",
        "preemption_cap",
        "prices",
        "reserve",
    )

    def __init__(
        self,
        *,
        cap: int = DEFAULT_PREEMPTION_CAP,
        gain: float = 7.0,
        unit: float = 0.6,
        overhead_s: float = 1.4e-3,
    ) -> None:
        self.preemption_cap = validate_cap(cap)
        self.prices = MachinePrices()
        self.found = FoundAgain()
        self.reserve = SelfTuningReserve(
            self.prices, gain=gain, unit=unit, overhead_s=overhead_s, found=self.found
        )
        # Output tokens of each running request when it was admitted, by request id.
        self._output_at_admission: dict[str, int] = {}

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the most recent candidate whose recompute cost is within 1.5x of the cheapest."""
        if self.found.mostly:
            return candidates[-1]
        return cheapest_to_recompute(candidates, engine)

    def reserve_blocks(self, engine: EngineView) -> int:
        """Blocks the self-tuning reserve keeps free now."""
        return self.reserve.blocks(engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Remember where its output stood."""
        self._begin(request, request.num_output_tokens, engine)

    def _begin(self, request: RequestView, done: int, engine: EngineView) -> None:
        """`request` runs; it has generated `done` tokens."""
        self._output_at_admission[request.request_id] = done
        if engine.prefix_caching:
            self.found.come_back(request)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Raise the reserve by what the preemption cost beyond what the request generated meanwhile."""
        generated = request.num_output_tokens
        gained = generated - self._output_at_admission.pop(request.request_id, generated)
        self.reserve.on_preempt(lost_tokens, gained, engine)
        if engine.prefix_caching and self._is_single(request, engine):
            self.found.lose(request, lost_tokens)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """Learn the machine's prices and the memory in use."""
        self._end(request, engine)

    def _end(self, request: RequestView, engine: EngineView) -> None:
        """`request` left the engine."""
        self._output_at_admission.pop(request.request_id, None)
        if engine.prefix_caching:
            self.found.forget(request)
        self.reserve.observe(engine)

    def _is_single(self, request: RequestView, engine: EngineView) -> bool:
        """Whether it is not a turn of a session: what turns find again is taken from idle sessions."""
        return not request.session_id
