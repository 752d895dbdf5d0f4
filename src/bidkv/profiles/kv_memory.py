"""How many KV blocks fit on a GPU beside the weights, counted as vLLM counts them.

vLLM takes a share of the GPU's memory, and from it the weights, the peak of a profiling step (activations),
what the driver and the communication library hold, and the CUDA graphs. The rest is KV cache. Layers of
several kinds (full attention, sliding windows, recurrent states) share one pool: vLLM makes groups of equally
many layers, and a block belongs to all layers of one group. A request holds blocks in every group, so fewer
tokens fit than blocks times block size. `tokens` is the figure that vLLM logs as "GPU KV cache size".

The constants are read off the start-up logs of real servers; docs/reference/planning.md compares the result
with documented deployments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bidkv.profiles.errors import ProfileError
from bidkv.profiles.model_shape import ModelShape

BLOCK_TOKENS = 16
"""Tokens of the KV blocks that a profile counts."""

KV_BYTES = {"auto": 2.0, "bfloat16": 2.0, "float16": 2.0, "fp8": 1.0, "fp8_e4m3": 1.0, "fp8_e5m2": 1.0}
"""Bytes of a KV value by vLLM's `--kv-cache-dtype`; `auto` is that of 16-bit activations."""

_LOGITS_COPIES = 3.5
"""Copies of a step's 32-bit logits that the sampler holds at its peak.

Read off 30 start-up logs of vLLM 0.19 with vocabularies of 32,000 to 262,000 tokens.
"""

_HIDDEN_COPIES = 3.0
"""Copies of a step's 16-bit hidden states beside the logits, from the same logs."""

_FEED_FORWARD_COPIES = 4.0
"""Copies of the hidden states beside the widest feed-forward layer, from the same logs."""

ONE_GPU_BYTES = 0.25 * 2**30
"""Memory of the driver and libraries with one GPU, from the same logs."""

LINKED_GPU_BYTES = 2.1 * 2**30
"""The same on each of several GPUs with tensor parallelism over NVLink, communication buffers included."""

PCIE_GPU_BYTES = 0.5 * 2**30
"""The same on each of several GPUs without NVLink; an assumption."""

GRAPH_BYTES = 1.0 * 2**30
"""What vLLM estimates for CUDA graphs: an H100 with Llama-3.1-8B under vLLM 0.24 leaves so much less."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """How a server is started, as far as it decides on memory; the defaults are those of the simulator.

    Attributes:
        gpu_memory_utilization: share of a GPU's memory that vLLM takes.
        max_num_seqs: most requests running at once; the sampler's memory grows with it.
        max_num_batched_tokens: token budget of a step.
        max_model_len: longest context; None is the model's own.
        kv_cache_dtype: as vLLM's option, a key of :data:`KV_BYTES`.
        tensor_parallel: GPUs that share every layer.
        pipeline_parallel: stages of layers.
        counts_graphs: whether the CUDA graphs are taken off, as vLLM does from 0.20 on.
        enable_prefix_caching: with it, a recurrent layer holds two states of a sequence instead of one.
    """

    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    max_model_len: int | None = None
    kv_cache_dtype: str = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    counts_graphs: bool = True
    enable_prefix_caching: bool = True

    @property
    def gpus(self) -> int:
        """GPUs of a replica."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def kv_value_bytes(self) -> float:
        """Bytes of a KV value.

        Raises:
            ProfileError: a dtype that is not known.
        """
        if self.kv_cache_dtype not in KV_BYTES:
            raise ProfileError(
                f"kv_cache_dtype: expected one of {', '.join(KV_BYTES)}, got {self.kv_cache_dtype!r}"
            )
        return KV_BYTES[self.kv_cache_dtype]


@dataclass(frozen=True, slots=True)
class KvMemory:
    """The KV cache of a replica.

    Attributes:
        kv_bytes: memory of a GPU that is left for it, of the GPU with the least.
        weight_bytes: weights on that GPU.
        other_bytes: activations, libraries and CUDA graphs on it.
        tokens: tokens that fit, as vLLM logs them.
        num_blocks: the same in blocks of 16 tokens.
    """

    kv_bytes: float
    weight_bytes: float
    other_bytes: float
    tokens: int
    num_blocks: int


def count_kv(shape: ModelShape, memory_bytes: float, server: ServerMemory, *, has_nvlink: bool) -> KvMemory:
    """Count the KV blocks of a replica.

    Args:
        shape: the model.
        memory_bytes: memory of each GPU, as CUDA reports it.
        server: how the server is started.
        has_nvlink: whether its GPUs are linked directly.

    Raises:
        ProfileError: the weights do not fit, or leave no room for KV, or a parallelism that the model's heads
            or layers do not allow.
    """
    _check_parallelism(shape, server)
    budget = server.gpu_memory_utilization * memory_bytes
    tensor, stages = server.tensor_parallel, server.pipeline_parallel
    other = activation_bytes(shape, server) + _library_bytes(server, has_nvlink)
    if server.counts_graphs:
        other += GRAPH_BYTES
    # The last stage also holds the output projection and the sampler's memory, and so has the least room.
    in_stage = math.ceil(shape.layers / stages) / shape.layers
    if stages > 1:
        weights = (shape.layer_bytes * in_stage + 2 * shape.head_weights) / tensor
    else:
        weights = shape.weight_bytes / tensor
    left = budget - weights - other
    tokens = _tokens(shape, server, max(left, 0.0), in_stage)
    if tokens < 2 * BLOCK_TOKENS:
        room = max(budget - other, 0.0)
        needed = math.ceil(shape.weight_bytes / room) if room else 0
        advice = (
            f"at least {needed} such GPUs hold the weights" if needed else "no number of such GPUs holds them"
        )
        raise ProfileError(
            f"expected weights that fit: they take {shape.weight_bytes / 1e9:.1f} GB, and "
            f"{server.gpus} x {memory_bytes / 1e9:.1f} GB have {server.gpus * room / 1e9:.1f} GB for "
            f"weights and KV cache; {advice} (tensor parallelism)"
        )
    return KvMemory(left, weights, other, tokens, tokens // BLOCK_TOKENS)


def activation_bytes(shape: ModelShape, server: ServerMemory) -> float:
    """Return the peak of a profiling step beside weights and KV: the sampler's or the widest layer's."""
    tokens, tensor = server.max_num_batched_tokens, server.tensor_parallel
    hidden = 2.0 * tokens * shape.hidden
    seqs = min(server.max_num_seqs, tokens)
    sampling = _LOGITS_COPIES * 4.0 * seqs * shape.vocabulary + _HIDDEN_COPIES * hidden
    dense = 2.0 * tokens * 3 * shape.feed_forward_width / tensor + _FEED_FORWARD_COPIES * hidden
    experts = (
        2.0 * tokens * shape.experts_per_token * (3 * shape.expert_width / tensor + shape.hidden)
        if shape.experts_per_token
        else 0.0
    )
    return max(sampling, dense) + experts


def _library_bytes(server: ServerMemory, has_nvlink: bool) -> float:
    if server.tensor_parallel == 1:
        return ONE_GPU_BYTES
    return LINKED_GPU_BYTES if has_nvlink else PCIE_GPU_BYTES


def _check_parallelism(shape: ModelShape, server: ServerMemory) -> None:
    heads = shape.attention_width // (shape.head_size if not shape.latent_width else 1)
    tensor = server.tensor_parallel
    if tensor < 1 or (shape.latent_width == 0 and heads % tensor):
        raise ProfileError(
            f"tensor_parallel: expected a divisor of the model's {heads} attention heads, got {tensor}"
        )
    if not 1 <= server.pipeline_parallel <= shape.layers:
        raise ProfileError(
            f"pipeline_parallel: expected 1 to the model's {shape.layers} layers, "
            f"got {server.pipeline_parallel}"
        )
    if not 0.0 < server.gpu_memory_utilization <= 1.0:
        raise ProfileError(
            f"gpu_memory_utilization: expected more than 0 and at most 1, got {server.gpu_memory_utilization}"
        )


def _tokens(shape: ModelShape, server: ServerMemory, kv_bytes: float, in_stage: float) -> int:
    """Return the tokens of requests of the longest context that fit into `kv_bytes` of a GPU."""
    value_bytes = server.kv_value_bytes
    # Key-value heads are divided among the GPUs; where there are fewer, each GPU holds a whole one. The
    # latent of multi-head latent attention is held by every GPU.
    if shape.latent_width:
        token_bytes = shape.latent_width * value_bytes
    else:
        heads = max(shape.kv_heads / server.tensor_parallel, 1.0)
        token_bytes = 2 * heads * shape.head_size * value_bytes
    if not shape.window_layers and not shape.state_layers:
        block_bytes = BLOCK_TOKENS * token_bytes * shape.full_layers * in_stage
        return int(kv_bytes / block_bytes) * BLOCK_TOKENS
    return _tokens_in_groups(shape, server, kv_bytes, token_bytes, in_stage)


def _tokens_in_groups(
    shape: ModelShape, server: ServerMemory, kv_bytes: float, token_bytes: float, in_stage: float
) -> int:
    """Count tokens where layers of several kinds share the pool."""
    block = BLOCK_TOKENS
    if shape.state_layers:
        # The page of an attention layer grows until it holds the state of a recurrent one.
        state = shape.state_bytes / server.tensor_parallel
        block = max(BLOCK_TOKENS * math.ceil(state / (token_bytes * BLOCK_TOKENS)), BLOCK_TOKENS)
    numbers = [n for n in (shape.full_layers, shape.window_layers, shape.state_layers) if n]
    group = min(numbers)
    if max(numbers) < 1.5 * group:
        group = max(numbers)
    # Of few stages only the layers of one count.
    pool = int(kv_bytes / (block * token_bytes * group * in_stage))
    longest = server.max_model_len or shape.max_model_len or block
    held = math.ceil(shape.full_layers / group) * math.ceil(longest / block)
    if shape.window_layers:
        seen = min(shape.window - 1 + server.max_num_batched_tokens, longest)
        # One block more, since a window begins within a block.
        needed = math.ceil(seen / block) + (1 if seen < longest else 0)
        held += math.ceil(shape.window_layers / group) * needed
    if shape.state_layers:
        states = 2 if server.enable_prefix_caching else 1
        held += math.ceil(shape.state_layers / group) * states
    return int(pool / held * longest)
