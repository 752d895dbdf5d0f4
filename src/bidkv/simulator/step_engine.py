"""What every simulated engine is, whichever real one it follows: made from a config, driven step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bidkv.protocol.policy import EngineView
from bidkv.simulator.books import TokenBooks
from bidkv.simulator.content import Prompt
from bidkv.simulator.request import SimRequest


class ReplicaConfig(Protocol):
    """The options of one replica, as far as all engines have them."""

    @property
    def usable_blocks(self) -> int:
        """KV blocks that requests can hold."""

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    @property
    def max_num_seqs(self) -> int:
        """Most requests running at once."""

    @property
    def max_num_batched_tokens(self) -> int:
        """Token budget of a step."""

    @property
    def model_len(self) -> int:
        """Longest sequence (prompt and answer) that the engine takes."""

    @property
    def longest_prompt(self) -> int:
        """Longest prompt that the engine takes; it leaves room for at least one output token."""

    @property
    def schedules_by_priority(self) -> bool:
        """Whether the engine orders requests by priority before anything else."""


class StepEngine(EngineView, Protocol):
    """One simulated replica, driven from outside: `submit` requests, `step` until it is idle.

    It is also the view that its policy sees. Lists about a step are those of the last one.
    """

    @property
    def books(self) -> TokenBooks:
        """Counters of recompute, prefix hits, lost prefixes and gaps between tokens."""

    @property
    def scheduled(self) -> Sequence[tuple[SimRequest, int]]:
        """(request, tokens) in the order of scheduling."""

    @property
    def preempted(self) -> Sequence[SimRequest]:
        """Requests that the step preempted, in that order."""

    @property
    def finished(self) -> Sequence[SimRequest]:
        """Requests that were completed by the step."""

    @property
    def aborted(self) -> Sequence[SimRequest]:
        """Requests that the engine itself gave up in the step."""

    @property
    def running(self) -> Sequence[SimRequest]:
        """The running requests in the engine's own order."""

    def waiting(self) -> Sequence[SimRequest]:
        """The waiting requests in the engine's own order; O(waiting)."""

    @property
    def num_preemptions(self) -> int:
        """Preemptions so far."""

    @property
    def used_blocks_in_step(self) -> int:
        """Blocks held while the step ran: those of requests that it completed are included."""

    @property
    def idle_session_blocks_in_step(self) -> int:
        """Free blocks that held the past of a session between two turns while the step ran."""

    @property
    def idle(self) -> bool:
        """Whether nothing runs, waits or is being computed."""

    def wait_until(self, now_s: float) -> None:
        """Let time pass without a step, as while nothing runs or waits."""

    def submit(self, request: SimRequest) -> None:
        """`request` arrives now."""

    def abort(self, request: SimRequest) -> None:
        """The client of `request` gives it up between two steps; what it holds becomes free.

        Raises:
            ValueError: it is not in this engine.
        """

    def step(self) -> float:
        """Schedule and run one step, advance the clock, and return by how many seconds."""

    def track_sessions(self, *, find_by_prefix: bool) -> None:
        """Show sessions to the policy from now on; an engine without a prefix cache has none to show.

        Args:
            find_by_prefix: whether a request without a named session is matched with the past it repeats.
        """

    def cached_prompt_tokens(self, prompt: Prompt) -> int:
        """Leading tokens of a prompt that is not here yet which the prefix cache holds; 0 without one."""
