"""The options of a simulated vLLM, under the real engine's names."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Literal

SchedulingPolicy = Literal["fcfs", "priority"]


_LIMITS = {
    "num_gpu_blocks": (2, 10**8),
    "block_size": (1, 10**6),
    "max_num_seqs": (1, 10**6),
    "max_num_batched_tokens": (1, 10**9),
    "max_model_len": (2, 10**9),
    "prefix_chunk_tokens": (1, 10**9),
    "long_prefill_token_threshold": (0, 10**9),
    "state_groups": (0, 10**6),
}
"""Least and most of each option. Tables of these sizes are made at the start, and a typing error must not
fill the memory."""

_SWITCHES = ("enable_prefix_caching", "enable_chunked_prefill", "reserve_full_isl", "async_scheduling")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of one engine replica, named and counted as vLLM does.

    Attributes:
        num_gpu_blocks: KV blocks, the reserved null block included (vLLM's `--num-gpu-blocks-override`).
        block_size: tokens per block.
        max_num_seqs: most requests running at once.
        max_num_batched_tokens: token budget of a step.
        max_model_len: longest prompt + output; None takes all usable blocks.
        enable_prefix_caching: share blocks of equal prefixes (told by the requests' `hash_ids`).
        prefix_chunk_tokens: prompt tokens that one of a request's `hash_ids` stands for.
        enable_chunked_prefill: split prompts over steps.
        watermark: share of `num_gpu_blocks` an admission must leave free while something runs.
        scheduling_policy: "fcfs", or "priority" (lower number first).
        reserve_full_isl: admit only when the whole sequence known so far would fit (vLLM's default).
        long_prefill_token_threshold: longest chunk of one prefill while others are there; 0 is off.
        async_scheduling: schedule a step before the output of the one before it is known, as vLLM does by
            default on a GPU.
        sliding_windows: tokens that a group of layers sees, for each group that does not see all of them; one
            group with full attention is always there. Every group has blocks of its own, of the same size.
        state_groups: groups of layers that keep a state of fixed size instead (Mamba and other state-space
            layers, where vLLM caches no prefixes): each holds one block for every running request.

    Raises:
        ValueError: for a value no engine could run with; the message names the field.
    """

    num_gpu_blocks: int
    block_size: int = 16
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None
    enable_prefix_caching: bool = False
    prefix_chunk_tokens: int = 512
    enable_chunked_prefill: bool = True
    watermark: float = 0.0
    scheduling_policy: SchedulingPolicy = "fcfs"
    reserve_full_isl: bool = True
    long_prefill_token_threshold: int = 0
    async_scheduling: bool = False
    sliding_windows: tuple[int, ...] = ()
    state_groups: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            value = getattr(self, name)
            if name == "max_model_len" and value is None:
                continue
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be an integer >= {least} and <= {most:,}, got {value!r:.80}")
        for name in _SWITCHES:
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r:.80}")
        if type(self.watermark) not in (int, float) or not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"watermark must be in [0.0, 1.0), got {self.watermark!r:.80}")
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise ValueError(
                f"scheduling_policy must be 'fcfs' or 'priority', got {self.scheduling_policy!r:.80}"
            )
        if self.sliding_windows != ():
            self._check_windows()
        if self.has_groups and self.enable_prefix_caching:
            name = "sliding_windows" if self.sliding_windows else "state_groups"
            raise ValueError(f"{name} are not simulated together with enable_prefix_caching")
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.model_len:
            raise ValueError(
                "max_num_batched_tokens must be >= max_model_len when chunked prefill is off, "
                f"got {self.max_num_batched_tokens} < {self.model_len}"
            )

    def _check_windows(self) -> None:
        windows = self.sliding_windows
        if type(windows) is not tuple or any(type(w) is not int or not 1 <= w <= 10**9 for w in windows):
            raise ValueError(f"sliding_windows must be a tuple of integers >= 1, got {windows!r:.80}")
        if self.async_scheduling:
            raise ValueError("sliding_windows are not simulated together with async_scheduling")

    @property
    def has_groups(self) -> bool:
        """Whether the model has other groups of KV cache beside the one with full attention."""
        return bool(self.sliding_windows or self.state_groups)

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold: all but the null block."""
        return self.num_gpu_blocks - 1

    @property
    def model_len(self) -> int:
        """Longest sequence the engine takes."""
        capacity = self._find_most_rows() * self.block_size
        return capacity if self.max_model_len is None else min(self.max_model_len, capacity)

    @property
    def window_blocks(self) -> tuple[int, ...]:
        """Blocks that one request holds at most in each group with a window.

        What a step computes is added to the window, and one block more, since a window may begin within one.
        """
        most = self.max_num_batched_tokens
        tokens = [window - 1 + most for window in self.sliding_windows]
        if self.max_model_len is not None:
            tokens = [min(each, self.max_model_len) for each in tokens]
        return tuple(-(-each // self.block_size) + 1 for each in tokens)

    def _find_most_rows(self) -> int:
        """Return the blocks of full attention of the longest sequence that the memory holds; at least one."""
        usable, caps = self.usable_blocks - self.state_groups, self.window_blocks
        if not caps:
            return max(1, usable)
        # Each further row takes a block of full attention, and one of each window that is not filled yet.
        rows = bisect.bisect_right(
            range(usable + 1), usable, key=lambda rows: rows + sum(min(rows, cap) for cap in caps)
        )
        return max(1, rows - 1)

    @property
    def longest_prompt(self) -> int:
        """Longest prompt that the engine takes."""
        return self.model_len - 1

    @property
    def schedules_by_priority(self) -> bool:
        """Whether requests are ordered by priority before anything else."""
        return self.scheduling_policy == "priority"

    @property
    def watermark_blocks(self) -> int:
        """Blocks the engine's own watermark keeps free at an admission."""
        return int(self.watermark * self.num_gpu_blocks)
