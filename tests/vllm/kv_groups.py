"""Models with several groups of KV cache, as vLLM sees them: the specification of every group."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import torch
from tests.vllm.cases import Case, EngineShape, random_case
from tests.vllm.harness import full_attention
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)

BLOCK = 16


def sliding(window: int, block_size: int = BLOCK) -> SlidingWindowSpec:
    """Attention to the last `window` tokens."""
    return SlidingWindowSpec(
        block_size=block_size, num_kv_heads=1, head_size=1, dtype=torch.float32, sliding_window=window
    )


def chunked(chunk: int) -> ChunkedLocalAttentionSpec:
    """Attention within chunks of `chunk` tokens."""
    return ChunkedLocalAttentionSpec(
        block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32, attention_chunk_size=chunk
    )


def mamba(mode: str, block_size: int) -> MambaSpec:
    """A state of fixed size: one block (`none`), one for every block of tokens (`all`), or two (`align`)."""
    return MambaSpec(block_size=block_size, shapes=((1, 1),), dtypes=(torch.float32,), mamba_cache_mode=mode)


def model_groups(kind: str, *, prefix_caching: bool, max_model_len: int) -> list[KVCacheSpec]:
    """The groups of a kind of model, by its name in `KINDS`."""
    full = full_attention(BLOCK)
    state = mamba("align", BLOCK) if prefix_caching else mamba("none", max_model_len)
    return {
        "sliding window": [full, sliding(64)],
        "sliding windows": [full, sliding(48), sliding(48), sliding(48)],
        "sliding window alone": [sliding(64)],
        "chunked local": [full, chunked(64)],
        "state space": [full, state, state, state],
        "state space first": [state, state, full],
        "window and state": [full, sliding(64), state],
        "small blocks": [full_attention(2 * BLOCK), sliding(64)],
        "state space everywhere": [full, mamba("all", BLOCK)],
    }[kind]


KINDS = (
    "sliding window",
    "sliding windows",
    "sliding window alone",
    "chunked local",
    "state space",
    "state space first",
    "state space everywhere",
)


def grouped_case(
    seed: int, kind: str, *, prefix_caching: bool, **fields: Any
) -> tuple[Case, list[KVCacheSpec]]:
    """A random case for a model of several groups, and its groups; every request fits the memory alone."""
    case = random_case(seed, prefix_caching=prefix_caching, **fields)
    shape = case.shape
    specs = model_groups(kind, prefix_caching=prefix_caching, max_model_len=shape.max_model_len)
    most = max(
        sum(_most_blocks(spec, request.prompt_tokens + request.output_tokens, shape) for spec in specs)
        for request in case.requests
    )
    blocks = 1 + most + random.Random(seed).randint(most // 4, most)
    return replace(case, shape=replace(shape, num_blocks=blocks)), specs


def _most_blocks(spec: KVCacheSpec, tokens: int, shape: EngineShape) -> int:
    """Blocks of one group that a request with so many tokens holds at most."""
    blocks = -(-tokens // spec.block_size)
    if isinstance(spec, MambaSpec) and spec.mamba_cache_mode == "align":
        return 4
    if isinstance(spec, SlidingWindowSpec | ChunkedLocalAttentionSpec):
        # Two steps may be in flight.
        return min(blocks, spec.max_admission_blocks_per_request(2 * shape.max_num_batched_tokens, tokens))
    return blocks
