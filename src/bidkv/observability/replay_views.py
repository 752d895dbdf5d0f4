"""A logged engine and its requests, as a policy sees live ones."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.observability.log_lines import Admission, Candidate, DecisionLine, Finish, Line, Preemption, Start
from bidkv.protocol.engine_defaults import EngineViewDefaults
from bidkv.protocol.requests import RequestView
from bidkv.protocol.session_views import SessionTable


class LoggedRequest:
    """A request at an event; what the log does not hold has its default."""

    def __init__(self, line: Admission | Preemption | Finish, prompt_tokens: int) -> None:
        self.request_id = line.request_id
        self.arrival_s = line.time_s if isinstance(line, Preemption) else line.arrival_s
        self.num_prompt_tokens = prompt_tokens
        self.num_output_tokens = line.output_tokens
        self.num_computed_tokens = 0
        self.num_cached_tokens = line.cached_tokens if isinstance(line, Admission) else 0
        self.num_preemptions = 0 if isinstance(line, Preemption) else line.preemptions
        self.num_held_blocks = 0
        self.max_tokens: int | None = None
        self.priority = 0
        self.deadline_s: float | None = None
        self.weight = 1.0
        self.agent_id = ""
        self.session_id = ""
        self.turn = 0
        self.gap_hint_s: float | None = None
        self.is_last_turn = False


class LoggedEngine(EngineViewDefaults):
    """The engine's state as the log tells it; an `EngineView`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.num_steps = 0
        self.free_blocks = 0
        self.num_running = 0
        self.num_waiting = 0
        self.num_prefilling = 0
        self.num_scheduled_tokens = 0
        self.block_size = 1
        self.num_blocks = 0
        self.max_num_seqs = 0
        self.max_num_batched_tokens = 0
        self.prefix_caching = False
        self.sessions: SessionTable | None = None
        self.running: Sequence[Candidate] = ()
        self._need_blocks = 0
        self._prompt_tokens: dict[str, int] = {}

    def see(self, line: Line) -> None:
        """Move on to a line's state."""
        self.now_s, self.num_steps = line.time_s, line.step
        self.free_blocks, self.num_running, self.num_waiting = line.free_blocks, line.running, line.waiting
        if isinstance(line, Start):
            self.block_size, self.num_blocks = line.block_size, line.num_blocks
            self.max_num_seqs, self.max_num_batched_tokens = line.max_num_seqs, line.max_num_batched_tokens
            self.prefix_caching = line.prefix_caching
        elif isinstance(line, DecisionLine):
            self.running = line.candidates
            self._need_blocks = line.need_blocks
        elif isinstance(line, Admission):
            self._prompt_tokens[line.request_id] = line.prompt_tokens

    def prompt_tokens(self, request_id: str) -> int:
        """Prompt length of a request, 0 when its admission is not in the log."""
        return self._prompt_tokens.get(request_id, 0)

    def waiting(self) -> Sequence[RequestView]:
        """Empty: the log does not name the waiting requests."""
        return ()

    def is_waiting(self, request: RequestView) -> bool:
        """Unknown to the log."""
        return False

    def cached_tokens(self, request: RequestView) -> int:
        """Unknown to the log."""
        return 0

    def freed_blocks(self, request: RequestView) -> int:
        """Blocks that preempting a candidate would have freed."""
        return request.freed_blocks if isinstance(request, Candidate) else request.num_held_blocks

    def block_demand(self, excluded: frozenset[str]) -> int:
        """Blocks the step took, as far as the log says: what was free and what was missing."""
        return self.free_blocks + self._need_blocks
