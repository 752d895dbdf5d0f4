"""The state of a simulated SGLang: its requests and pages, as its policy sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.requests import RequestView
from bidkv.simulator.request import SimRequest
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.state import EngineState


class SglangState(EngineState):
    """Requests and pages of one replica, and the `EngineView` that its policy sees; decides nothing."""

    def __init__(self, config: SglangConfig, profile: StepTimeProfile, controller: Controller) -> None:
        super().__init__(config, profile, controller)
        self.config = config
        self.new_token_ratio = config.initial_ratio
        self._decoding: list[SimRequest] = []
        self._prefilled: list[SimRequest] = []
        self._chunked: SimRequest | None = None
        self._full = False
        self._last_end_s = 0.0
        self._admissions: dict[str, int] = {}
        self._num_admissions = 0

    # --- what a policy may ask -------------------------------------------------------------------
    @property
    def prefix_caching(self) -> bool:
        """False: this engine shares no pages."""
        return False

    @property
    def running(self) -> Sequence[SimRequest]:
        """The running requests, first admitted first; O(running)."""
        running = {request.request_id: request for request in chain(self._decoding, self._prefilled)}
        if self._chunked is not None:
            running[self._chunked.request_id] = self._chunked
        return sorted(running.values(), key=self._admission)

    @property
    def num_running(self) -> int:
        """Requests that run."""
        chunked = self._chunked is not None and self._chunked not in self._prefilled
        return len(self._decoding) + len(self._prefilled) + chunked

    @property
    def num_prefilling(self) -> int:
        """1 while a prompt is prefilled in chunks, else 0."""
        return 0 if self._chunked is None else 1

    def freed_blocks(self, request: RequestView) -> int:
        """Pages that retracting `request` would free."""
        return request.num_held_blocks

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Pages the next decode step takes without the requests `excluded`."""
        return self._pages_to_decode(r for r in self._decoding if r.request_id not in excluded)

    # --- memory ----------------------------------------------------------------------------------
    def _pages_to_decode(self, requests: Iterable[SimRequest]) -> int:
        size = self._block_size
        return sum(1 for request in requests if request._num_computed_tokens % size == 0)

    def _admission(self, request: SimRequest) -> int:
        return self._admissions[request.request_id]

    def _cap(self, request: SimRequest) -> int:
        return request._limit_tokens - request.num_prompt_tokens

    def _output_left(self, request: SimRequest) -> int:
        return self._cap(request) - request.num_output_tokens

    def _grow(self, request: SimRequest, end: int) -> None:
        pages = -(-end // self._block_size) - request._num_held_blocks
        self._free_blocks -= pages
        request._num_held_blocks += pages

    def _release(self, request: SimRequest) -> None:
        self._free_blocks += request._num_held_blocks
        request._num_held_blocks = 0
