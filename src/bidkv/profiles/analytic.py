"""A step-time profile without a recording: a roofline from a model's config.json and a GPU's data sheet.

For a model or a GPU without recorded steps. In a step, a GPU needs at least the time to read the weights
once, and at least the time its arithmetic takes: the larger of the two (S. Williams, A. Waterman, D.
Patterson, "Roofline", CACM 52(4), 2009). Reading the KV cache comes on top of either, since attention is no
part of the matrix products, and so does the time of the host between two steps. The two bounds take the
places of a regime's two cost lines. Of a mixture of experts every step is taken to read all experts, which
holds from about a dozen requests in a batch on.

Tensor parallelism divides weights, arithmetic and KV cache, and adds two all-reduces per layer. Pipeline
parallelism divides arithmetic and KV cache, since as many batches are under way as there are stages, but
every batch waits for all weights to be read. Layers with a sliding window are taken to read all of it, and
recurrent layers read and write their state for each request.

What the data sheets do not say is assumed, in the constants below; a fitted profile always serves better.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bidkv.profiles.errors import ProfileError
from bidkv.profiles.kv_memory import ServerMemory, count_kv
from bidkv.profiles.model import CostLine, Regime, StepTimeProfile
from bidkv.profiles.model_shape import ModelShape, read_shape

__all__ = ["Gpu", "ModelShape", "ServerMemory", "analytic_profile", "find_gpu", "gpus", "read_shape"]

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

PCIE_SLOWDOWN = 10.0
"""How much slower all-reduces are between GPUs without NVLink; an assumption."""

_ALIASES = {"h100": "h100-sxm", "a100": "a100-80gb", "a10g": "a10", "4090": "rtx-4090", "3090": "rtx-3090"}
"""Short names of GPUs, of the variant that servers mostly have."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak figures of a GPU, from its data sheet.

    Attributes:
        bf16_flops: dense BF16 floating-point operations per second.
        memory_bytes_per_s: memory bandwidth.
        memory_bytes: memory, as CUDA reports it to a server, a little below the data sheet's.
        has_nvlink: whether the GPUs of a host are linked directly.
        source: the data sheet.
    """

    bf16_flops: float
    memory_bytes_per_s: float
    memory_bytes: float
    has_nvlink: bool
    source: str


def gpus() -> dict[str, Gpu]:
    """Return the GPUs whose data sheets ship with the package, by name."""
    text = resources.files("bidkv.profiles").joinpath("gpus.json").read_text(encoding="utf-8")
    return {name: Gpu(**figures) for name, figures in json.loads(text).items()}


def find_gpu(name: str) -> Gpu:
    """Return the data sheet of a GPU, by its name in any case (``h100`` is the SXM one, ``a100`` has 80 GB).

    Raises:
        ProfileError: no such GPU; the message lists those that exist.
    """
    known = gpus()
    wanted = (
        name.lower().replace("_", "-").replace(" ", "-").replace("rtx4", "rtx-4").replace("rtx3", "rtx-3")
    )
    wanted = _ALIASES.get(wanted, wanted)
    if wanted in known:
        return known[wanted]
    if name not in known:
        raise ProfileError(f"unknown GPU {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


def analytic_profile(
    model: str | os.PathLike[str],
    gpu: str,
    name: str | None = None,
    *,
    tensor_parallel: int = 1,
    server: ServerMemory | None = None,
) -> StepTimeProfile:
    """Compute a profile for weights as the model's config.json has them.

    Args:
        model: as for :func:`read_shape`.
        gpu: as for :func:`find_gpu`.
        name: of the profile; by default made of GPU and model.
        tensor_parallel: GPUs that share every layer, where `server` does not say it.
        server: how the server is started.

    Raises:
        ProfileError: unknown model or GPU, a config.json that cannot be used, weights that do not fit, or
            heads or layers that the GPUs cannot share evenly.
    """
    sheet, shape = find_gpu(gpu), read_shape(model)
    if server is None:
        server = ServerMemory(tensor_parallel=tensor_parallel)
    memory = count_kv(shape, sheet.memory_bytes, server, has_nvlink=sheet.has_nvlink)
    tensor, stages = server.tensor_parallel, server.pipeline_parallel
    bandwidth = BANDWIDTH_SHARE * sheet.memory_bytes_per_s * tensor
    flops = FLOPS_SHARE * sheet.bf16_flops * server.gpus
    weights_s = (shape.layer_bytes + 2 * shape.head_weights) / bandwidth
    layer_s = shape.kv_layer_bytes(server.kv_value_bytes) / (bandwidth * stages)
    context_s = shape.full_layers * layer_s
    slowdown = 1.0 if sheet.has_nvlink else PCIE_SLOWDOWN
    reduces = slowdown * (2 * shape.layers if tensor > 1 else 0)
    reduce_s = reduces * ALL_REDUCE_S + (stages - 1) * slowdown * ALL_REDUCE_S
    reduce_token_s = reduces * 2 * shape.hidden / ALL_REDUCE_BYTES_PER_S
    # What a decoding request reads whatever its context: its windows, and its states, which it writes too.
    fixed_s = shape.window_layers * shape.window * layer_s
    fixed_s += 2 * shape.state_layers * shape.state_bytes / (bandwidth * stages)
    # The output projection runs for one token per request.
    request_s = HOST_REQUEST_S + 2 * shape.head_weights / flops
    windows = 4 * shape.window_layers * shape.attention_width * shape.window
    arithmetic = CostLine(
        base_s=HOST_STEP_S + reduce_s,
        per_token_s=(2 * shape.active_weights + windows) / flops + reduce_token_s,
        per_decode_s=request_s + fixed_s,
        per_context_token_s=context_s,
        per_attention_s=4 * shape.full_layers * shape.attention_width / flops,
        per_prefill_s=request_s,
    )

    def reading(least_s: float) -> CostLine:
        return CostLine(
            base_s=max(HOST_STEP_S + weights_s + reduce_s, least_s),
            per_token_s=reduce_token_s,
            per_decode_s=HOST_REQUEST_S + fixed_s,
            per_context_token_s=context_s,
            per_prefill_s=HOST_REQUEST_S,
        )

    several = f"{server.gpus}x" if server.gpus > 1 else ""
    return StepTimeProfile(
        name=name or f"{several}{gpu}-{Path(model).name}-analytic",
        kind="analytic",
        decode=Regime(reading(0.0), arithmetic),
        graph=Regime(reading(HOST_GRAPH_STEP_S), arithmetic),
        eager=Regime(reading(HOST_EAGER_STEP_S_PER_LAYER * shape.layers), arithmetic),
        empty_step_s=EMPTY_STEP_S,
        notes=(
            f"roofline, never measured; {sheet.source}; {BANDWIDTH_SHARE:.0%} of the bandwidth and "
            f"{FLOPS_SHARE:.0%} of the arithmetic assumed; {_kinds(shape)}, {shape.bits_per_weight:g} bits "
            f"per weight, {shape.weight_bytes / 1e9:.1f} GB of weights on {server.gpus} x {gpu}, of which "
            f"{100 * server.gpu_memory_utilization:g} % are used; "
            f"{memory.kv_bytes / 1e9:.1f} GB of KV cache ({server.kv_cache_dtype}) on each GPU"
        ),
        num_gpu_blocks=memory.num_blocks,
    )


def _kinds(shape: ModelShape) -> str:
    """Say which kinds of layers a model has."""
    parts = [
        f"{number} layers {what}"
        for number, what in (
            (shape.full_layers, "of latent attention" if shape.latent_width else "of full attention"),
            (shape.window_layers, f"with a window of {shape.window:,} tokens"),
            (shape.state_layers, "with a recurrent state"),
        )
        if number
    ]
    return " and ".join(parts)
