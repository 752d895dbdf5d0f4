"""A step-time profile without a recording: a roofline from a model's config.json and a GPU's data sheet.

For a model or a GPU without recorded steps. In a step, a GPU needs at least the time to read the weights
once, and at least the time its arithmetic takes: the larger of the two (S. Williams, A. Waterman, D.
Patterson, "Roofline", CACM 52(4), 2009). Reading the KV cache comes on top of either, since attention is no
part of the matrix products, and so does the time of the host between two steps. The two bounds take the
places of a regime's two cost lines. Of a mixture of experts every step is taken to read all experts, which
holds from about a dozen requests in a batch on.

Tensor parallelism divides weights, arithmetic and KV cache, and adds two all-reduces per layer.

What the data sheets do not say is assumed, in the constants below; a fitted profile always serves better.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bidkv.profiles.errors import ProfileError
from bidkv.profiles.model import CostLine, Regime, StepTimeProfile
from bidkv.profiles.model_shape import ModelShape, read_shape

__all__ = ["Gpu", "ModelShape", "analytic_profile", "count_blocks", "gpus", "read_shape"]

BANDWIDTH_SHARE = 0.85
"""Share of the data sheet's memory bandwidth that decoding reaches; an assumption."""

FLOPS_SHARE = 0.7
"""Share of the data sheet's arithmetic that large matrix products and attention reach; an assumption."""

HOST_STEP_S = 0.002
"""Host time of a step that no kernel hides (scheduling, sampling); an assumption, one for all machines."""

HOST_REQUEST_S = 0.00002
"""Host time for each request of the step (bookkeeping, output); an assumption, one for all machines."""

HOST_GRAPH_STEP_S = 0.011
"""Least time of a step with prefill that replays captured graphs: read off the recorded H100 steps."""

HOST_EAGER_STEP_S_PER_LAYER = 0.0008
"""Least time per layer of a step launched kernel by kernel: read off the recorded H100 steps."""

EMPTY_STEP_S = 0.0005
"""Time of a step that schedules nothing; an assumption."""

ALL_REDUCE_S = 1e-5
"""Time of an all-reduce of few bytes between the GPUs of one host over NVLink; an assumption."""

ALL_REDUCE_BYTES_PER_S = 3e11
"""Bytes of a large all-reduce per second over NVLink; an assumption, one for all machines."""

MEMORY_UTILIZATION = 0.9
"""Share of a GPU's memory that vLLM takes, by default."""

OVERHEAD_BYTES = 2.3e9
"""Memory of one GPU that vLLM needs beside weights and KV cache (activations, graphs, libraries).

It is an assumption: what Llama-3.1-8B leaves on an H100 with a budget of 2,048 tokens.
"""

BLOCK_TOKENS = 16
"""Tokens of the KV blocks that a profile counts."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak figures of a GPU, from its data sheet.

    Attributes:
        bf16_flops: dense BF16 floating-point operations per second.
        memory_bytes_per_s: memory bandwidth.
        memory_bytes: memory, as the driver reports it.
        source: the data sheet.
    """

    bf16_flops: float
    memory_bytes_per_s: float
    memory_bytes: float
    source: str


def gpus() -> dict[str, Gpu]:
    """Return the GPUs whose data sheets ship with the package, by name."""
    text = resources.files("bidkv.profiles").joinpath("gpus.json").read_text(encoding="utf-8")
    return {name: Gpu(**figures) for name, figures in json.loads(text).items()}


def find_gpu(name: str) -> Gpu:
    """Return the data sheet of a GPU.

    Raises:
        ProfileError: no such GPU; the message lists those that exist.
    """
    known = gpus()
    if name not in known:
        raise ProfileError(f"unknown GPU {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


def count_blocks(shape: ModelShape, gpu: Gpu, tensor_parallel: int = 1) -> int:
    """Return the KV blocks of 16 tokens that fit beside the weights, on all GPUs of a replica together.

    Args:
        shape: the model.
        gpu: each GPU of the replica.
        tensor_parallel: number of them.

    Raises:
        ProfileError: the weights do not fit, or leave no room for KV.
    """
    budget = MEMORY_UTILIZATION * gpu.memory_bytes - OVERHEAD_BYTES
    left = budget - shape.weight_bytes / tensor_parallel
    # Key-value heads are divided among the GPUs; where there are fewer, each GPU holds a whole one.
    heads_each = max(shape.kv_heads / tensor_parallel, 1.0)
    block_bytes = BLOCK_TOKENS * shape.kv_bytes_per_token() * heads_each / shape.kv_heads
    blocks = int(left / block_bytes)
    if blocks < 2:
        needed = -(-shape.weight_bytes // max(budget, 1.0))
        raise ProfileError(
            f"expected weights that fit: they take {shape.weight_bytes / 1e9:.1f} GB, and "
            f"{tensor_parallel} x "
            f"{gpu.memory_bytes / 1e9:.1f} GB have {max(tensor_parallel * budget, 0.0) / 1e9:.1f} GB for "
            f"weights and KV cache; at least {needed:.0f} such GPUs hold the weights (tensor parallelism)"
        )
    return blocks


def analytic_profile(
    model: str | os.PathLike[str], gpu: str, name: str | None = None, *, tensor_parallel: int = 1
) -> StepTimeProfile:
    """Compute a profile for a BF16 KV cache and weights as the model's config.json has them.

    Args:
        model: as for :func:`read_shape`.
        gpu: one of :func:`gpus`.
        name: of the profile; by default made of GPU and model.
        tensor_parallel: GPUs of a replica.

    Raises:
        ProfileError: unknown model or GPU, a config.json that cannot be used, weights that do not fit, or
            heads that the GPUs cannot share evenly.
    """
    sheet, shape = find_gpu(gpu), read_shape(model)
    if tensor_parallel < 1 or shape.attention_width // shape.head_size % tensor_parallel:
        heads = shape.attention_width // shape.head_size
        raise ProfileError(
            f"tensor_parallel: expected a divisor of the model's {heads} attention heads, "
            f"got {tensor_parallel}"
        )
    blocks = count_blocks(shape, sheet, tensor_parallel)
    bandwidth = BANDWIDTH_SHARE * sheet.memory_bytes_per_s * tensor_parallel
    flops = FLOPS_SHARE * sheet.bf16_flops * tensor_parallel
    read_bytes = shape.layer_weights * shape.bits_per_weight / 8 + 2 * shape.head_weights
    weights_s = read_bytes / bandwidth
    context_s = shape.kv_bytes_per_token() / bandwidth
    reduces = 2 * shape.layers if tensor_parallel > 1 else 0
    reduce_s = reduces * ALL_REDUCE_S
    reduce_token_s = reduces * 2 * shape.hidden / ALL_REDUCE_BYTES_PER_S
    # The output projection runs for one token per request.
    request_s = HOST_REQUEST_S + 2 * shape.head_weights / flops
    arithmetic = CostLine(
        base_s=HOST_STEP_S + reduce_s,
        per_token_s=2 * shape.active_weights / flops + reduce_token_s,
        per_decode_s=request_s,
        per_context_token_s=context_s,
        per_attention_s=4 * shape.layers * shape.attention_width / flops,
        per_prefill_s=request_s,
    )

    def reading(least_s: float) -> CostLine:
        return CostLine(
            base_s=max(HOST_STEP_S + weights_s + reduce_s, least_s),
            per_token_s=reduce_token_s,
            per_decode_s=HOST_REQUEST_S,
            per_context_token_s=context_s,
            per_prefill_s=HOST_REQUEST_S,
        )

    several = f"{tensor_parallel}x" if tensor_parallel > 1 else ""
    return StepTimeProfile(
        name=name or f"{several}{gpu}-{Path(model).name}-analytic",
        kind="analytic",
        decode=Regime(reading(0.0), arithmetic),
        graph=Regime(reading(HOST_GRAPH_STEP_S), arithmetic),
        eager=Regime(reading(HOST_EAGER_STEP_S_PER_LAYER * shape.layers), arithmetic),
        empty_step_s=EMPTY_STEP_S,
        notes=(
            f"roofline, never measured; {sheet.source}; {BANDWIDTH_SHARE:.0%} of the bandwidth and "
            f"{FLOPS_SHARE:.0%} of the arithmetic assumed; {shape.bits_per_weight:g} bits per weight, "
            f"{shape.weight_bytes / 1e9:.1f} GB of weights on {tensor_parallel} x {gpu}"
        ),
        num_gpu_blocks=blocks,
    )
