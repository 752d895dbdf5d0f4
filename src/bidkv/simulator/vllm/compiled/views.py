"""What a policy sees of the compiled engine: the same views as everywhere, reading the kernel's arrays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import cast

from bidkv.control import Controller
from bidkv.protocol.policy import Figure
from bidkv.protocol.read_only import seal, write_facts
from bidkv.protocol.requests import RequestView, WorkloadRequest
from bidkv.protocol.session_views import SessionTable
from bidkv.simulator.content import Prompt
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.feed import Feed
from bidkv.simulator.vllm.compiled.memory import Kernel
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.waiting import priority_key

# A module's own names are found faster than another module's.
_TOKENS, _COMPUTED, _HELD, _PREEMPTIONS = at.TOKENS, at.COMPUTED, at.HELD, at.PREEMPTIONS
_UID, _PLACE, _WAITING, _START = at.UID, at.PLACE, at.WAITING, at.START
_NOW_S, _FREE, _RUNNING_COUNT, _WAITING_COUNT = at.NOW_S, at.FREE, at.RUNNING_COUNT, at.WAITING_COUNT
_STEPS, _SCHEDULED_TOKENS = at.STEPS, at.SCHEDULED_TOKENS


class KernelRequest:
    """A live request in a slot of the kernel's tables; it can be read and not written."""

    __slots__ = (
        "_rows",
        "_slot",
        "_uid",
        "agent_id",
        "arrival_s",
        "deadline_s",
        "gap_hint_s",
        "is_last_turn",
        "max_tokens",
        "num_prompt_tokens",
        "priority",
        "request_id",
        "session_id",
        "turn",
        "weight",
    )

    def __init__(
        self,
        rows: list[memoryview[int]],
        slot: int,
        uid: int,
        source: WorkloadRequest,
        *,
        tells_sessions: bool,
    ) -> None:
        self._rows = rows
        self._slot = slot
        self._uid = uid
        # What never changes is copied: policies read a name dozens of times.
        self.request_id = source.request_id
        self.arrival_s = source.arrival_s
        self.num_prompt_tokens = source.prompt_tokens
        self.max_tokens = source.max_tokens
        self.priority = source.priority
        self.deadline_s = None if source.deadline_ms is None else source.arrival_s + source.deadline_ms / 1e3
        self.weight = source.weight
        self.agent_id = source.agent_id
        self.session_id = source.session_id if tells_sessions else ""
        self.turn = source.turn if tells_sessions else 0
        self.gap_hint_s = source.gap_hint_s
        self.is_last_turn = source.is_last_turn
        seal(self)

    def __repr__(self) -> str:
        known = self.num_prompt_tokens + self.num_output_tokens
        return f"KernelRequest({self.request_id!r}, computed={self.num_computed_tokens}/{known})"

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return self._rows[_TOKENS][self._slot] - self.num_prompt_tokens

    @property
    def num_computed_tokens(self) -> int:
        """Positions computed and held."""
        return self._rows[_COMPUTED][self._slot]

    @property
    def num_cached_tokens(self) -> int:
        """Leading positions that were cached when it entered last."""
        return self._rows[_START][self._slot]

    @property
    def num_held_blocks(self) -> int:
        """KV blocks it holds."""
        return self._rows[_HELD][self._slot]

    @property
    def num_preemptions(self) -> int:
        """How often it was preempted."""
        return self._rows[_PREEMPTIONS][self._slot]


class Seen:
    """The running requests as they were read; None: the kernel ran since."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running: tuple[KernelRequest, ...] | None = None


class KernelView:
    """The compiled engine as its policy sees it.

    Attributes:
        tells_sessions: whether clients name the sessions of their requests.
        views: the requests that a policy has seen, by uid.
        seen: what was read of the engine; to be forgotten when the kernel ran.
    """

    __slots__ = (
        "_by_priority",
        "_clock",
        "_feed",
        "_kernel",
        "_rows",
        "_state",
        "block_size",
        "blocks_per_growth",
        "lost_past_price",
        "lost_token_price",
        "max_num_batched_tokens",
        "max_num_seqs",
        "num_blocks",
        "prefix_caching",
        "seen",
        "sessions",
        "tells_sessions",
        "views",
    )

    def __init__(self, config: EngineConfig, kernel: Kernel, feed: Feed, *, tells_sessions: bool) -> None:
        self.block_size = config.block_size
        self.blocks_per_growth = 1
        self.lost_token_price = self.lost_past_price = 1.0
        self.num_blocks = config.usable_blocks
        self.max_num_seqs = config.max_num_seqs
        self.max_num_batched_tokens = config.max_num_batched_tokens
        self.prefix_caching = config.enable_prefix_caching
        self.sessions: SessionTable | None = None
        self.tells_sessions = tells_sessions
        self.views: dict[int, KernelRequest] = {}
        self.seen = Seen()
        self._kernel = kernel
        self._feed = feed
        self._by_priority = config.scheduling_policy == "priority"
        # The kernel keeps these objects for its whole life, whatever becomes of its arrays.
        self._rows = kernel.rows
        self._state = kernel.words
        self._clock = kernel.seconds
        seal(self)

    def request(self, slot: int) -> KernelRequest:
        """The request in a slot; the same object as long as it lives."""
        uid = self._rows[_UID][slot]
        view = self.views.get(uid)
        if view is None:
            source = self._feed.live[uid]
            view = KernelRequest(self._rows, slot, uid, source, tells_sessions=self.tells_sessions)
            self.views[uid] = view
        return view

    def find_slot(self, request_id: str) -> int | None:
        """The slot of a live request, or None; O(live)."""
        uids, live = self._rows[_UID], self._feed.live
        for slot in self._kernel.live_slots().tolist():
            if live[uids[slot]].request_id == request_id:
                return int(slot)
        return None

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, waits or is being computed."""
        state = self._state
        if state[_RUNNING_COUNT] or state[_WAITING_COUNT]:
            return False
        return state[at.FLIGHT_COUNT] < 0 or bool(state[at.FLIGHT_EMPTY])

    @property
    def now_s(self) -> float:
        """Seconds on the simulated clock."""
        return self._clock[_NOW_S]

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return self._state[_FREE]

    @property
    def used_blocks_in_step(self) -> int:
        """Blocks in use in the step that ran last."""
        return self._state[at.USED]

    @property
    def running(self) -> Sequence[KernelRequest]:
        """The running requests in order."""
        if self.seen.running is None:
            self.seen.running = self._read_running()
        return self.seen.running

    def _read_running(self) -> tuple[KernelRequest, ...]:
        views, uids = self.views, self._rows[_UID]
        slots = self._kernel.tables.running[: self._state[_RUNNING_COUNT]].tolist()
        return tuple([views.get(uids[slot]) or self.request(slot) for slot in slots])

    @property
    def num_running(self) -> int:
        """Requests that run."""
        return self._state[_RUNNING_COUNT]

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return self._state[_WAITING_COUNT]

    @property
    def num_prefilling(self) -> int:
        """Running requests with more than one token to compute."""
        return self._state[at.PREFILLING_COUNT]

    @property
    def most_preemptions(self) -> int:
        """How often the request that was preempted most was, of all so far."""
        return self._state[at.MOST_PREEMPTIONS]

    @property
    def num_steps(self) -> int:
        """Steps run so far."""
        return self._state[_STEPS]

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed so far."""
        return self._state[_SCHEDULED_TOKENS]

    def waiting(self) -> Sequence[KernelRequest]:
        """The waiting requests in the engine's order."""
        if self._by_priority:
            heap = self._kernel.tables.heap[: self._state[_WAITING_COUNT]]
            return sorted(map(self.request, heap.tolist()), key=priority_key)
        waiting = []
        slot = self._state[at.HEAD]
        while slot >= 0:
            waiting.append(self.request(slot))
            slot = self._rows[at.NEXT][slot]
        return waiting

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` waits."""
        return self.find_waiting(request) >= 0

    def find_waiting(self, answer: object) -> int:
        """The slot of a request that waits; -1 for anything else."""
        rows = self._rows
        if not isinstance(answer, KernelRequest) or answer._rows is not rows:  # of another engine
            return -1
        slot = answer._slot
        # Still there, and not in the slot of one that came later.
        return slot if rows[_PLACE][slot] == _WAITING and rows[_UID][slot] == answer._uid else -1

    def true_output_tokens(self, request: RequestView) -> int:
        """Tokens `request` will have generated in the end."""
        if not isinstance(request, KernelRequest):
            raise TypeError(f"expected a request of this engine, got {request!r}")
        return self._rows[at.TARGET][request._slot] - request.num_prompt_tokens

    def cached_tokens(self, request: RequestView) -> int:
        """Leading tokens of a waiting request that the prefix cache holds now; O(cached blocks)."""
        if not self.prefix_caching:
            return 0
        return self._kernel.ask(at.Q_CACHED_TOKENS, cast("KernelRequest", request)._slot)

    def cached_prompt_tokens(self, prompt: Prompt) -> int:
        """Leading tokens of a prompt that is not here yet which the prefix cache holds; 0 without one."""
        if not self.prefix_caching:
            return 0
        self._feed.place_prospect(prompt)
        return self._kernel.ask(at.Q_CACHED_TOKENS, at.PROSPECT)

    # --- what the session accounts ask (`SessionCache`) -----------------------------------------
    def track_sessions(self, control: Controller, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy from now on."""
        write_facts(self, sessions=control.track_sessions(self, find_by_prefix=find_by_prefix))

    def block_keys(self, request: RequestView) -> Sequence[int]:
        """Return the keys of the full blocks of a live request's known tokens, in order."""
        view = cast("KernelRequest", request)
        rows, slot, size = self._rows, view._slot, self.block_size
        full = rows[_TOKENS][slot] // size
        first, count = rows[at.FIRST_SEGMENT][slot], rows[at.SEGMENT_COUNT][slot]
        ends, nodes = self._kernel.segment_rows
        keys: list[int] = []
        for segment in range(first, first + count):
            stop = min(ends[segment] // size, full)
            base = nodes[segment] << at.INDEX_BITS
            keys.extend(range(base + len(keys), base + stop))
        base = rows[at.LAST_NODE][slot] << at.INDEX_BITS
        keys.extend(range(base + len(keys), base + full))
        return keys

    def is_cached(self, key: Hashable) -> bool:
        """Whether a block of this content is cached now."""
        self._state[at.QUERY_KEY] = cast("int", key)
        return bool(self._kernel.ask(at.Q_IS_CACHED))

    reuses_parts = True

    def reuse_first(self, keys: Sequence[Hashable]) -> int:
        """Make free cached blocks the first to be reused, the last key's first; return how many moved."""
        state, ask = self._state, self._kernel.ask
        moved = count = 0
        first = following = -1
        # The keys of a session's blocks mostly count upwards: one question for each such run of them.
        for key in cast("Sequence[int]", keys):
            if key == following:
                count += 1
                following += 1
                continue
            if count:
                state[at.QUERY_KEY] = first
                moved += ask(at.Q_REUSE_FIRST, count)
            first, following, count = key, key + 1, 1
        if count:
            state[at.QUERY_KEY] = first
            moved += ask(at.Q_REUSE_FIRST, count)
        return moved

    def preemptable(self, running: Sequence[RequestView]) -> Sequence[RequestView]:
        """Return `running`: every request gives its blocks up at once."""
        return running

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting `request` frees."""
        if self.prefix_caching and isinstance(request, KernelRequest):
            return self._kernel.ask(at.Q_PRIVATE_BLOCKS, request._slot)
        return request.num_held_blocks

    def column(self, requests: Sequence[RequestView], figure: Figure) -> list[int]:
        """Read one figure of each of the running `requests` together."""
        views = cast("Sequence[KernelRequest]", requests)
        if figure == "num_output_tokens":
            tokens = self._rows[_TOKENS]
            return [tokens[view._slot] - view.num_prompt_tokens for view in views]
        if figure == "num_computed_tokens":
            row = self._rows[_COMPUTED]
        elif self.prefix_caching:
            self._kernel.ask(at.Q_ALL_PRIVATE_BLOCKS)
            row = self._rows[at.PRIVATE]
        else:
            row = self._rows[_HELD]
        return [row[view._slot] for view in views]

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the running list takes in the coming step without `excluded`."""
        if not excluded:
            return self._kernel.ask(at.Q_BLOCK_DEMAND)
        marked = [request._slot for request in self.running if request.request_id in excluded]
        row = self._rows[at.EXCLUDED]
        for slot in marked:
            row[slot] = 1
        demand = self._kernel.ask(at.Q_BLOCK_DEMAND)
        for slot in marked:
            row[slot] = 0
        return demand

    def name_victims(self, slots: Sequence[int]) -> None:
        """The policy named the requests in these slots for the coming step."""
        row, step = self._rows[at.NAMED], self._state[_STEPS] + 1
        for slot in slots:
            row[slot] = step
