"""A step-time profile without a recording: a roofline from a model's config.json and a GPU's data sheet.

For a model or a GPU that nobody recorded. In a step, a GPU needs at least the time to read the weights once,
and at least the time its arithmetic takes: the larger of the two (S. Williams, A. Waterman, D. Patterson,
"Roofline", CACM 52(4), 2009). Reading the KV cache comes on top of either, as attention is no part of the
matrix products, and so does what the host does between two steps. The two bounds take the places of a
regime's two cost lines.

What the data sheets do not say is assumed, in the constants below; a fitted profile always serves better.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bidkv.profiles.errors import ProfileError, parse_json, quoted
from bidkv.profiles.model import CostLine, Regime, StepTimeProfile

BANDWIDTH_SHARE = 0.85
"""Share of the data sheet's memory bandwidth that decoding reaches; an assumption."""

FLOPS_SHARE = 0.7
"""Share of the data sheet's arithmetic that large matrix products and attention reach; an assumption."""

HOST_STEP_S = 0.002
"""Host time of a step that no kernel hides (scheduling, sampling); an assumption, one for all machines."""

HOST_REQUEST_S = 0.00002
"""Such host time for each request of the step (bookkeeping, output); an assumption, one for all machines."""

HOST_GRAPH_STEP_S = 0.011
"""Least time of a step with prefill that replays captured graphs: read off the recorded H100 steps."""

HOST_EAGER_STEP_S_PER_LAYER = 0.0008
"""Least time a layer of a step launched kernel by kernel: read off the recorded H100 steps."""

_MOST = 10**9

EMPTY_STEP_S = 0.0005
"""Time of a step that schedules nothing; an assumption."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What step time depends on in a dense decoder-only transformer with gated feed-forward layers.

    Attributes:
        layers: number of layers.
        layer_weights: weights of all layers' matrices.
        head_weights: weights of the output projection over the vocabulary.
        attention_width: attention heads times head size.
        kv_width: key-value heads times head size.
    """

    layers: int
    layer_weights: int
    head_weights: int
    attention_width: int
    kv_width: int

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache one token takes."""
        return 2 * self.layers * self.kv_width * bytes_per_value


@dataclass(frozen=True, slots=True)
class Gpu:
    """Peak figures of a GPU, from its data sheet.

    Attributes:
        bf16_flops: dense BF16 floating-point operations a second.
        memory_bytes_per_s: memory bandwidth.
        source: the data sheet.
    """

    bf16_flops: float
    memory_bytes_per_s: float
    source: str


def gpus() -> dict[str, Gpu]:
    """The GPUs whose data sheets ship with the package, by name."""
    text = resources.files("bidkv.profiles").joinpath("gpus.json").read_text(encoding="utf-8")
    return {name: Gpu(**figures) for name, figures in json.loads(text).items()}


def read_shape(model: str | os.PathLike[str]) -> ModelShape:
    """Read a model's shape from a Hugging Face config.json (its path, or the directory that holds it).

    A packaged shape such as ``llama-3.1-8b`` is known by name.

    Raises:
        ProfileError: no such file or name, a missing or wrong field, or a model that is no dense decoder.
    """
    packaged = resources.files("bidkv.profiles").joinpath("shapes", f"{os.fspath(model)}.json")
    path = Path(model)
    if path.is_dir():
        path = path / "config.json"
    if packaged.is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ProfileError(
                f"model {model}: expected a packaged shape ({', '.join(_packaged_shapes())}), "
                f"a config.json or its directory ({error})"
            ) from error
    config = parse_json(text, str(path))
    if not isinstance(config, dict):
        raise ProfileError(f"{path}: expected an object, got {type(config).__name__}")
    return _shape(config, str(path))


def analytic_profile(model: str | os.PathLike[str], gpu: str, name: str | None = None) -> StepTimeProfile:
    """Compute a profile for BF16 weights and KV cache on one GPU.

    Args:
        model: as for :func:`read_shape`.
        gpu: one of :func:`gpus`.
        name: of the profile; by default made of GPU and model.

    Raises:
        ProfileError: unknown model or GPU, or a config.json that cannot be used.
    """
    known = gpus()
    if gpu not in known:
        raise ProfileError(f"unknown GPU {gpu!r}: expected one of {', '.join(sorted(known))}")
    sheet, shape = known[gpu], read_shape(model)
    bandwidth = BANDWIDTH_SHARE * sheet.memory_bytes_per_s
    flops = FLOPS_SHARE * sheet.bf16_flops
    weights_s = 2 * (shape.layer_weights + shape.head_weights) / bandwidth
    context_s = shape.kv_bytes_per_token() / bandwidth
    # The output projection runs for one token a request.
    request_s = HOST_REQUEST_S + 2 * shape.head_weights / flops
    arithmetic = CostLine(
        base_s=HOST_STEP_S,
        per_token_s=2 * shape.layer_weights / flops,
        per_decode_s=request_s,
        per_context_token_s=context_s,
        per_attention_s=4 * shape.layers * shape.attention_width / flops,
        per_prefill_s=request_s,
    )

    def reading(least_s: float) -> CostLine:
        return CostLine(
            base_s=max(HOST_STEP_S + weights_s, least_s),
            per_decode_s=HOST_REQUEST_S,
            per_context_token_s=context_s,
            per_prefill_s=HOST_REQUEST_S,
        )

    return StepTimeProfile(
        name=name or f"{gpu}-{Path(model).name}-analytic",
        kind="analytic",
        decode=Regime(reading(0.0), arithmetic),
        graph=Regime(reading(HOST_GRAPH_STEP_S), arithmetic),
        eager=Regime(reading(HOST_EAGER_STEP_S_PER_LAYER * shape.layers), arithmetic),
        empty_step_s=EMPTY_STEP_S,
        notes=(
            f"roofline, never measured; {sheet.source}; {BANDWIDTH_SHARE:.0%} of the bandwidth and "
            f"{FLOPS_SHARE:.0%} of the arithmetic assumed"
        ),
    )


def _packaged_shapes() -> list[str]:
    entries = resources.files("bidkv.profiles").joinpath("shapes").iterdir()
    return sorted(entry.name[: -len(".json")] for entry in entries if entry.name.endswith(".json"))


def _shape(config: Mapping[str, object], where: str) -> ModelShape:
    for field in ("num_local_experts", "num_experts", "n_routed_experts", "kv_lora_rank"):
        if config.get(field):
            raise ProfileError(f"{where}: field {field}: expected a dense model with plain attention")
    hidden = _count(config, where, "hidden_size")
    layers = _count(config, where, "num_hidden_layers")
    heads = _count(config, where, "num_attention_heads")
    kv_heads = _count(config, where, "num_key_value_heads", heads)
    head_size = _count(config, where, "head_dim", hidden // heads)
    feed_forward = 3 * hidden * _count(config, where, "intermediate_size")
    attention_width, kv_width = heads * head_size, kv_heads * head_size
    return ModelShape(
        layers=layers,
        layer_weights=layers * (hidden * (2 * attention_width + 2 * kv_width) + feed_forward),
        head_weights=hidden * _count(config, where, "vocab_size"),
        attention_width=attention_width,
        kv_width=kv_width,
    )


def _count(config: Mapping[str, object], where: str, field: str, default: int | None = None) -> int:
    value = config.get(field)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProfileError(
            f"{where}: field {field}: expected a whole number above 0, got {quoted(config.get(field))}"
        )
    if value > _MOST:
        raise ProfileError(f"{where}: field {field}: expected at most {_MOST:,}, got {quoted(value)}")
    return value
