"""Published rules for which request enters and how much memory stays free."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bidkv.policy.parts.ordering import OrderedAdmission, WaitingHeap, least
from bidkv.protocol.policy import EngineView, Policy
from bidkv.protocol.requests import RequestView


class Priority(OrderedAdmission):
    """`priority`: the most important request enters first, the least important one is preempted.

    Of equals the earlier arrival enters and the later arrival is preempted. Source: vLLM's scheduling policy
    `priority` (PR 19057); lower numbers are more important.
    """

    name = "priority"
    victim_rule = "the least important, of equals the latest arrival"

    def waiting_key(self, request: RequestView) -> tuple[int, float]:
        """Importance, then arrival."""
        return (request.priority, request.arrival_s)

    def select_victim(
        self, candidates: Sequence[RequestView], need_blocks: int, engine: EngineView
    ) -> RequestView | None:
        """Return the least important candidate, of equals the latest arrival."""
        return least(candidates, lambda request: (-request.priority, -request.arrival_s))


class Watermark(Policy):
    """`watermark`: an admission leaves a fixed share of the blocks free; the engine's own order otherwise.

    Source: vLLM PR 44594.

    Args:
        f: the share, in [0, 1); vLLM counts its null block in, so this does.
    """

    name = "watermark"

    def __init__(self, *, f: float = 0.02) -> None:
        if not 0.0 <= f < 1.0:
            raise ValueError(f"f must be in [0, 1), got {f}")
        self._share = f

    def reserve_blocks(self, engine: EngineView) -> int:
        """Return the share in whole blocks."""
        return int(self._share * (engine.num_blocks + 1))


class HighestResponseRatioNext(Policy):
    """`hrrn`: the highest response ratio enters first, (wait + service) / service.

    Service is the length of the prompt, generated tokens to compute again included. Source: SGLang PR 32911;
    Brinch Hansen 1971. Ratios change while time passes, so requests of about one size (within 19 %) share a
    queue by arrival and only heads of queues are compared: a question costs O(number of sizes), at most a
    few dozen, however many wait.
    """

    name = "hrrn"

    _QUEUES_PER_DOUBLING = 4

    def __init__(self) -> None:
        self._queues: dict[int, WaitingHeap] = {}
        self._sizes: dict[str, int] = {}

    def on_arrival(self, request: RequestView, engine: EngineView) -> None:
        """Queue it among those of its size."""
        size = round(self._QUEUES_PER_DOUBLING * math.log2(self._service_tokens(request)))
        self._sizes[request.request_id] = size
        if size not in self._queues:
            self._queues[size] = WaitingHeap()
        self._queues[size].push(request, request.arrival_s)

    def on_preempt(self, request: RequestView, lost_tokens: int, engine: EngineView) -> None:
        """Queue it again; what it generated is now part of its service."""
        self.on_arrival(request, engine)

    def on_admit(self, request: RequestView, engine: EngineView) -> None:
        """Take it off its queue."""
        self._leave(request)

    def on_finish(self, request: RequestView, engine: EngineView, *, completed: bool) -> None:
        """It may have been aborted while it waited."""
        self._leave(request)

    def _leave(self, request: RequestView) -> None:
        size = self._sizes.pop(request.request_id, None)
        if size is not None:
            self._queues[size].discard(request)

    def select_next(self, engine: EngineView) -> RequestView | None:
        """Return the head with the highest response ratio; of equals the smallest."""
        now_s = engine.now_s
        best, highest = None, -1.0
        for size in sorted(self._queues):
            head = self._queues[size].first()
            if head is None:
                continue
            ratio = (now_s - head.arrival_s) / self._service_tokens(head)
            if ratio > highest:
                best, highest = head, ratio
        return best

    @staticmethod
    def _service_tokens(request: RequestView) -> int:
        return request.num_prompt_tokens + request.num_output_tokens
