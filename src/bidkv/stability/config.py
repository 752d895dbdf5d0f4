"""The queueing controller's configuration, and what follows from the model's shape: bytes per KV block."""

from __future__ import annotations

import math
from dataclasses import dataclass


def _whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1")


@dataclass(frozen=True, slots=True)
class QueueingConfig:
    """Settings of :class:`bidkv.stability.QueueingController`.

    Attributes:
        window_seconds: time constant of every moving estimate.
        safety_margin: factor on the mean number of blocks in use, at least 1.
        block_size: tokens per KV block.
        head_dim: values per attention head.
        num_kv_heads: KV heads per layer.
        bytes_per_element: bytes of one KV value: 2.0 for 16 bits, 0.5 for INT4.
        min_eviction_interval_ms: least time between two evictions.
        num_layers: layers of the model.
        concurrency: requests the server serves at once; 1 is the plain M/G/1 formula.

    Raises:
        ValueError: a field out of range, named in the message.

    >>> QueueingConfig().bytes_per_block
    2097152.0
    >>> QueueingConfig(bytes_per_element=0.5).blocks_in_bytes(2**30)
    2048
    """

    window_seconds: float = 60.0
    safety_margin: float = 1.15
    block_size: int = 16
    head_dim: int = 128
    num_kv_heads: int = 8
    bytes_per_element: float = 2.0
    min_eviction_interval_ms: float = 100.0
    num_layers: int = 32
    concurrency: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.window_seconds < math.inf:
            raise ValueError("window_seconds must be > 0 and finite")
        if not 1.0 <= self.safety_margin < math.inf:
            raise ValueError("safety_margin must be >= 1.0 and finite")
        if not 0.0 < self.bytes_per_element < math.inf:
            raise ValueError("bytes_per_element must be > 0 and finite")
        if not 0.0 <= self.min_eviction_interval_ms < math.inf:
            raise ValueError("min_eviction_interval_ms must be >= 0 and finite")
        for name in ("block_size", "head_dim", "num_kv_heads", "num_layers", "concurrency"):
            _whole(name, getattr(self, name))

    @property
    def bytes_per_token(self) -> float:
        """KV bytes of one token: keys and values of every head of every layer."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.bytes_per_element

    @property
    def bytes_per_block(self) -> float:
        """KV bytes of one block."""
        return self.bytes_per_token * self.block_size

    def blocks_for_tokens(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens; the last may be partly empty."""
        if not tokens >= 0:
            raise ValueError("tokens must be >= 0")
        return -(-tokens // self.block_size)

    def tokens_in_blocks(self, blocks: int) -> int:
        """Tokens that fit into `blocks` blocks."""
        return blocks * self.block_size

    def bytes_in_blocks(self, blocks: int) -> float:
        """Bytes that `blocks` blocks take."""
        return blocks * self.bytes_per_block

    def blocks_in_bytes(self, memory_bytes: float) -> int:
        """Whole blocks that fit into `memory_bytes` bytes."""
        if not 0.0 <= memory_bytes < math.inf:
            raise ValueError("memory_bytes must be >= 0 and finite")
        return int(memory_bytes // self.bytes_per_block)
