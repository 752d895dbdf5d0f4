"""What a policy sees of the compiled engine: the same views as everywhere, reading the kernel's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.simulator.compiled import layout as at
from bidkv.simulator.compiled.kernel import block_demand
from bidkv.simulator.config import EngineConfig


class KernelRequest:
    """A live request in a slot of the kernel's tables."""

    __slots__ = ("_rows", "_slot", "_source")

    def __init__(self, rows: list[memoryview[int]], slot: int, source: WorkloadRequest) -> None:
        self._rows = rows
        self._slot = slot
        self._source = source

    @property
    def request_id(self) -> str:
        """Unique among live requests."""
        return self._source.request_id

    @property
    def arrival_s(self) -> float:
        """When it arrived."""
        return self._source.arrival_s

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self._source.prompt_tokens

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self._rows[at.TOKENS][self._slot] - self._source.prompt_tokens

    @property
    def num_computed_tokens(self) -> int:
        """Positions computed and held."""
        return self._rows[at.COMPUTED][self._slot]

    @property
    def num_held_blocks(self) -> int:
        """KV blocks it holds."""
        return self._rows[at.HELD][self._slot]

    @property
    def num_preemptions(self) -> int:
        """How often it was preempted."""
        return self._rows[at.PREEMPTIONS][self._slot]

    @property
    def max_tokens(self) -> int | None:
        """The sender's cap on generated tokens."""
        return self._source.max_tokens

    @property
    def priority(self) -> int:
        """Lower is more important."""
        return self._source.priority

    @property
    def deadline_s(self) -> float | None:
        """Absolute deadline."""
        deadline = self._source.deadline_ms
        return None if deadline is None else self._source.arrival_s + deadline / 1e3

    @property
    def weight(self) -> float:
        """Relative worth."""
        return self._source.weight

    @property
    def agent_id(self) -> str:
        """Who sent it."""
        return self._source.agent_id


class KernelView:
    """The compiled engine as its policy sees it."""

    def __init__(
        self,
        config: EngineConfig,
        ints: Any,
        running: Any,
        state: Any,
        clock: Any,
        live: dict[int, WorkloadRequest],
    ) -> None:
        self.block_size = config.block_size
        self.num_blocks = config.usable_blocks
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.prefix_caching = False
        self.views: dict[int, KernelRequest] = {}
        self._live = live
        self._bind(ints)
        self._running = running
        self._state: memoryview[int] = memoryview(state)
        self._state_array = state
        self._clock: memoryview[float] = memoryview(clock)

    def rebind(self, ints: Any) -> None:
        """The tables grew: read the new ones."""
        self._bind(ints)
        for request in self.views.values():
            request._rows = self._rows

    def _bind(self, ints: Any) -> None:
        self._ints = ints
        # A memoryview hands out Python integers several times faster than an array does.
        self._rows: list[memoryview[int]] = [memoryview(row) for row in ints]

    def request(self, slot: int) -> KernelRequest:
        """The request in a slot; the same object as long as it lives."""
        uid = self._rows[at.UID][slot]
        view = self.views.get(uid)
        if view is None:
            view = self.views[uid] = KernelRequest(self._rows, slot, self._live[uid])
        return view

    @property
    def now_s(self) -> float:
        """Seconds on the simulated clock."""
        return self._clock[at.NOW_S]

    @property
    def free_blocks(self) -> int:
        """Blocks nobody holds."""
        return self._state[at.FREE]

    @property
    def used_blocks_in_step(self) -> int:
        """Blocks in use in the step that ran last."""
        return self._state[at.USED]

    @property
    def running(self) -> Sequence[KernelRequest]:
        """The running requests in order."""
        slots = self._running[: self._state[at.RUNNING_COUNT]]
        views = self.views
        uids = self._ints[at.UID, slots].tolist()
        return [views.get(uid) or self.request(slot) for uid, slot in zip(uids, slots.tolist(), strict=True)]

    @property
    def num_running(self) -> int:
        """Requests that run."""
        return self._state[at.RUNNING_COUNT]

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return self._state[at.WAITING_COUNT]

    @property
    def num_prefilling(self) -> int:
        """Running requests with more than one token to compute."""
        return self._state[at.PREFILLING_COUNT]

    @property
    def num_steps(self) -> int:
        """Steps run so far."""
        return self._state[at.STEPS]

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed so far."""
        return self._state[at.SCHEDULED_TOKENS]

    def waiting(self) -> Sequence[KernelRequest]:
        """The waiting requests in the engine's order."""
        found = []
        slot = self._state[at.HEAD]
        while slot >= 0:
            found.append(self.request(slot))
            slot = self._rows[at.NEXT][slot]
        return found

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` waits."""
        return (
            isinstance(request, KernelRequest)
            and self.views.get(self._rows[at.UID][request._slot]) is request
            and self._rows[at.PLACE][request._slot] == at.WAITING
        )

    def true_output_tokens(self, request: RequestView) -> int:
        """Tokens `request` will have generated in the end; for clairvoyant policies, not in the protocol."""
        if not isinstance(request, KernelRequest):
            raise TypeError(f"expected a request of this engine, got {request!r}")
        return self._rows[at.TARGET][request._slot] - request.num_prompt_tokens

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting `request` frees."""
        return request.num_held_blocks

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without `excluded`."""
        if not excluded:
            return int(block_demand(self._ints, self._running, self._state_array))
        marked = [request._slot for request in self.running if request.request_id in excluded]
        self._ints[at.EXCLUDED, marked] = 1
        demand = int(block_demand(self._ints, self._running, self._state_array))
        self._ints[at.EXCLUDED, marked] = 0
        return demand
