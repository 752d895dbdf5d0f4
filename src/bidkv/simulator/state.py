"""What every simulated engine knows, whichever real one it follows."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.control import Controller
from bidkv.profiles import StepTimeProfile
from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable
from bidkv.simulator.books import TokenBooks
from bidkv.simulator.content import Prompt
from bidkv.simulator.request import SimRequest
from bidkv.simulator.step_engine import ReplicaConfig
from bidkv.simulator.waiting import FCFSQueue, PriorityQueue


class EngineState(EngineViewDefaults):
    """Clock, counters, waiting queue and the lists of the last step; it decides nothing.

    What policies may read of it cannot be written, as in a real engine's view.

    Args:
        config: the replica's options.
        profile: turns a step's batch into seconds.
        controller: asked by the engine and told of every event.
    """

    def __init__(self, config: ReplicaConfig, profile: StepTimeProfile, controller: Controller) -> None:
        self._block_size = config.block_size
        self._num_blocks = config.usable_blocks
        self._free_blocks = config.usable_blocks
        self._max_num_seqs = config.max_num_seqs
        self._max_num_batched_tokens = config.max_num_batched_tokens
        self._sessions: SessionTable | None = None
        self._now_s = 0.0
        self._num_steps = 0
        self.num_preemptions = 0
        self._num_scheduled_tokens = 0
        self.used_blocks_in_step = 0
        self.idle_session_blocks_in_step = 0
        self.books = TokenBooks(config.block_size)
        self.scheduled: list[tuple[SimRequest, int]] = []
        self.preempted: list[SimRequest] = []
        self.finished: list[SimRequest] = []
        self.aborted: list[SimRequest] = []
        self._waiting = PriorityQueue() if config.schedules_by_priority else FCFSQueue()
        self._model_len = config.model_len
        self._profile = profile
        self._control = controller

    @property
    def now_s(self) -> float:
        """Seconds on the simulated clock."""
        return self._now_s

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return self._block_size

    @property
    def num_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self._num_blocks

    @property
    def free_blocks(self) -> int:
        """Blocks that no request holds."""
        return self._free_blocks

    @property
    def max_num_seqs(self) -> int:
        """Most requests that run at once."""
        return self._max_num_seqs

    @property
    def max_num_batched_tokens(self) -> int:
        """Most tokens of a step."""
        return self._max_num_batched_tokens

    @property
    def sessions(self) -> SessionTable | None:
        """The sessions of its requests; None where they are not tracked."""
        return self._sessions

    @property
    def num_steps(self) -> int:
        """Steps run so far."""
        return self._num_steps

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed in them."""
        return self._num_scheduled_tokens

    def wait_until(self, now_s: float) -> None:
        """Let time pass without a step, as while nothing runs or waits."""
        self._now_s = now_s

    def track_sessions(self, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy; an engine without a prefix cache has none to show."""

    def cached_tokens(self, request: RequestView) -> int:
        """0 in an engine without a prefix cache."""
        return 0

    def cached_prompt_tokens(self, prompt: Prompt) -> int:
        """0 in an engine without a prefix cache."""
        return 0

    @property
    def num_waiting(self) -> int:
        """Requests that wait to enter."""
        return len(self._waiting)

    def waiting(self) -> Sequence[SimRequest]:
        """The waiting requests in the engine's own order."""
        return list(self._waiting)

    def is_waiting(self, request: RequestView) -> bool:
        """Whether `request` waits to enter."""
        return request in self._waiting

    def true_output_tokens(self, request: RequestView) -> int:
        """Tokens `request` will have generated in the end."""
        if not isinstance(request, SimRequest):
            raise TypeError(f"expected a request of this engine, got {request!r}")
        return request._target_tokens - request.num_prompt_tokens
