"""A replica of given engine options, as the closed form sees it."""

from __future__ import annotations

from bidkv.simulator import EngineConfig
from bidkv.stability import ReplicaShape


def shape_of(engine: EngineConfig) -> ReplicaShape:
    """Return what one replica with these options has to serve with: blocks, sequences, tokens of a step."""
    return ReplicaShape(
        engine.usable_blocks,
        engine.block_size,
        engine.max_num_seqs,
        engine.max_num_batched_tokens,
        engine.max_model_len,
    )
