"""What step times and memory depend on in a model, read from its Hugging Face config.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bidkv.profiles.errors import ProfileError, parse_json, quoted

_MOST = 10**9
"""Largest count in a config.json that is believed."""

_GROUP_BITS = 0.25
"""Bits per weight that scales and zero points of 4-bit weights in groups of 128 add (16 + 16 in 128)."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer with gated feed-forward layers, dense or a mixture of experts.

    Attributes:
        layers: number of layers.
        layer_weights: weights of all layers' matrices, all experts included.
        active_weights: weights of the layers' matrices that one token passes through.
        head_weights: weights of the output projection over the vocabulary.
        embedding_weights: weights of the input embedding; 0 where it is the output projection's.
        hidden: width of a layer's input, in values.
        attention_width: attention heads times head size.
        kv_heads: key-value heads.
        head_size: values of a head.
        bits_per_weight: of the layers' matrices, scales included; embedding and output projection have 16.
    """

    layers: int
    layer_weights: int
    active_weights: int
    head_weights: int
    embedding_weights: int
    hidden: int
    attention_width: int
    kv_heads: int
    head_size: int
    bits_per_weight: float = 16.0

    @property
    def kv_width(self) -> int:
        """Key-value heads times head size."""
        return self.kv_heads * self.head_size

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.layer_weights * self.bits_per_weight / 8 + 2 * (
            self.head_weights + self.embedding_weights
        )

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache that one token takes, over all GPUs."""
        return 2 * self.layers * self.kv_width * bytes_per_value


def read_shape(model: str | os.PathLike[str]) -> ModelShape:
    """Read a model's shape from a Hugging Face config.json (its path, or the directory that holds it).

    A packaged shape such as ``llama-3.1-8b`` is known by name. Of a multimodal model the text model is read.

    Raises:
        ProfileError: no such file or name, a missing or wrong field, or a model whose attention does not hold
            the whole past of every layer (multi-head latent attention, sliding windows, recurrent layers).
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
    bits = _bits_per_weight(config, str(path))
    for nested in ("text_config", "llm_config"):
        if isinstance(config.get(nested), dict):
            config = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config[nested]}
    return _shape(config, str(path), bits)


def _packaged_shapes() -> list[str]:
    entries = resources.files("bidkv.profiles").joinpath("shapes").iterdir()
    return sorted(entry.name[: -len(".json")] for entry in entries if entry.name.endswith(".json"))


def _shape(config: Mapping[str, object], where: str, bits: float) -> ModelShape:
    _require_full_attention(config, where)
    hidden = _count(config, where, "hidden_size")
    layers = _count(config, where, "num_hidden_layers")
    heads = _count(config, where, "num_attention_heads")
    kv_heads = _count(config, where, "num_key_value_heads", heads)
    head_size = _count(config, where, "head_dim", hidden // heads)
    attention_width, kv_width = heads * head_size, kv_heads * head_size
    attention = hidden * (2 * attention_width + 2 * kv_width)
    total, active = _feed_forward(config, where, hidden)
    head_weights = hidden * _count(config, where, "vocab_size")
    return ModelShape(
        layers=layers,
        layer_weights=layers * (attention + total),
        active_weights=layers * (attention + active),
        head_weights=head_weights,
        embedding_weights=0 if config.get("tie_word_embeddings") else head_weights,
        hidden=hidden,
        attention_width=attention_width,
        kv_heads=kv_heads,
        head_size=head_size,
        bits_per_weight=bits,
    )


def _require_full_attention(config: Mapping[str, object], where: str) -> None:
    kinds = config.get("layer_types")
    partial = isinstance(kinds, list) and any(kind != "full_attention" for kind in kinds)
    windowed = bool(config.get("sliding_window")) and config.get("use_sliding_window") is not False
    for field, is_present in (
        ("kv_lora_rank", bool(config.get("kv_lora_rank"))),
        ("layer_types", partial),
        ("sliding_window", windowed),
    ):
        if is_present:
            raise ProfileError(
                f"{where}: field {field}: expected a model in which every layer keeps the KV of every token, "
                f"got {quoted(config.get(field))}"
            )


def _feed_forward(config: Mapping[str, object], where: str, hidden: int) -> tuple[int, int]:
    """Return the feed-forward weights of a layer: all of them, and those one token passes through."""
    found = next((f for f in ("num_local_experts", "num_experts", "n_routed_experts") if config.get(f)), None)
    if found is None:
        dense = 3 * hidden * _count(config, where, "intermediate_size")
        return dense, dense
    experts = _count(config, where, found)
    chosen = _count(config, where, "num_experts_per_tok")
    if chosen > experts:
        raise ProfileError(
            f"{where}: field num_experts_per_tok: expected at most the {experts} experts, got {chosen}"
        )
    field = "moe_intermediate_size" if config.get("moe_intermediate_size") else "intermediate_size"
    expert = 3 * hidden * _count(config, where, field)
    shared = 0
    if config.get("shared_expert_intermediate_size"):
        shared = 3 * hidden * _count(config, where, "shared_expert_intermediate_size")
    router = hidden * experts
    return experts * expert + shared + router, chosen * expert + shared + router


def _bits_per_weight(config: Mapping[str, object], where: str) -> float:
    """Return the bits of a weight of the layers, by `quantization_config`; 16 without one."""
    nested = config.get("text_config")
    stated = config.get("quantization_config")
    if stated is None and isinstance(nested, dict):
        stated = nested.get("quantization_config")
    if stated is None:
        return 16.0
    if not isinstance(stated, dict):
        raise ProfileError(f"{where}: field quantization_config: expected an object, got {quoted(stated)}")
    method = stated.get("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        return 8.0
    bits: object = None
    if method in ("awq", "gptq"):
        bits = stated.get("bits", stated.get("w_bit"))
    elif method == "mxfp4":
        bits = 4
    elif method == "bitsandbytes":
        bits = 4 if stated.get("load_in_4bit") else 8
    elif method == "compressed-tensors":
        bits = _first_group_bits(stated)
    elif method == "modelopt":
        bits = {"FP8": 8, "NVFP4": 4}.get(str(stated.get("quant_algo")))
    if isinstance(bits, bool) or bits not in (2, 3, 4, 8):
        raise ProfileError(
            f"{where}: field quantization_config: expected fp8, awq, gptq, mxfp4, bitsandbytes, modelopt or "
            f"compressed-tensors with 2 to 8 bits per weight, got {quoted(method)} with {quoted(bits)}"
        )
    return float(bits) + (_GROUP_BITS if bits != 8 else 0.0)


def _first_group_bits(stated: Mapping[str, object]) -> object:
    groups = stated.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights.get("num_bits") if isinstance(weights, dict) else None


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
