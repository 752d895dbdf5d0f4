"""What step times and memory depend on in a model, read from its Hugging Face config.json."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from bidkv.profiles.config_fields import ConfigFields
from bidkv.profiles.errors import ProfileError, parse_json
from bidkv.profiles.model_layers import (
    FULL,
    STATE,
    WINDOW,
    layer_kinds,
    read_attention,
    read_feed_forward,
    read_state,
    read_vision_weights,
)
from bidkv.profiles.model_quantization import bits_per_weight


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only model: attention of any kind, recurrent layers, dense or a mixture of experts.

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
        bits_per_weight: of the quantized matrices, scales included; the others have 16.
        unquantized_weights: weights of the layers' matrices that have 16 bits all the same.
        vision_weights: weights of a vision tower, which have 16 bits.
        full_layers: layers that keep the KV of every token.
        window_layers: layers that keep the last `window` tokens.
        window: that many tokens; 0 without such layers.
        state_layers: recurrent layers, which keep a state of fixed size.
        state_bytes: bytes of that state, of one layer and one sequence.
        latent_width: values kept per token and layer by multi-head latent attention; 0 for other attention.
        feed_forward_width: of dense feed-forward layers; 0 without any.
        experts_per_token: experts that a token passes through; 0 without experts.
        expert_width: of one expert; 0 without experts.
        max_model_len: longest context that the config states; 0 where it does not.
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
    unquantized_weights: int = 0
    vision_weights: int = 0
    full_layers: int = 0
    window_layers: int = 0
    window: int = 0
    state_layers: int = 0
    state_bytes: int = 0
    latent_width: int = 0
    feed_forward_width: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    max_model_len: int = 0

    @property
    def kv_width(self) -> int:
        """Key-value heads times head size."""
        return self.kv_heads * self.head_size

    @property
    def vocabulary(self) -> int:
        """Tokens there are."""
        return self.head_weights // self.hidden

    @property
    def layer_bytes(self) -> float:
        """Bytes of the layers' weights in memory."""
        quantized = self.layer_weights - self.unquantized_weights
        return quantized * self.bits_per_weight / 8 + 2 * self.unquantized_weights

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights in memory."""
        return self.layer_bytes + 2 * (self.head_weights + self.embedding_weights + self.vision_weights)

    def kv_layer_bytes(self, bytes_per_value: float = 2) -> float:
        """Bytes of KV cache that one token takes in one attention layer, over all GPUs."""
        return (self.latent_width or 2 * self.kv_width) * bytes_per_value

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> float:
        """Bytes of KV cache that a token takes in all attention layers while it is within the window."""
        return (self.full_layers + self.window_layers) * self.kv_layer_bytes(bytes_per_value)


def read_shape(model: str | os.PathLike[str]) -> ModelShape:
    """Read a model's shape from a Hugging Face config.json (its path, or the directory that holds it).

    A packaged shape such as ``llama-3.1-8b`` is known by name. Of a multimodal model the text model is read,
    and the weights of the vision tower are counted.

    Raises:
        ProfileError: no such file or name, a missing or wrong field, or a model without any KV cache.
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
    return _shape(ConfigFields(config, str(path)))


def _packaged_shapes() -> list[str]:
    entries = resources.files("bidkv.profiles").joinpath("shapes").iterdir()
    return sorted(entry.name[: -len(".json")] for entry in entries if entry.name.endswith(".json"))


def _shape(config: ConfigFields) -> ModelShape:
    bits, is_only_experts = bits_per_weight(config)
    hidden = config.count("hidden_size")
    kinds = layer_kinds(config)
    attention = read_attention(config, hidden)
    state_weights, state_bytes = read_state(config, kinds, hidden)
    feed_forward = read_feed_forward(config, kinds, hidden)
    full, window, state = kinds.count(FULL), kinds.count(WINDOW), kinds.count(STATE)
    if not full + window:
        raise config.error("layer_types", "at least one attention layer (others have no KV cache)")
    mixing = (full + window) * attention.weights + state * state_weights
    total = mixing + feed_forward.total
    head_weights = hidden * config.count("vocab_size")
    return ModelShape(
        layers=len(kinds),
        layer_weights=total,
        active_weights=mixing + feed_forward.active,
        head_weights=head_weights,
        embedding_weights=0 if config.get("tie_word_embeddings") else head_weights,
        hidden=hidden,
        attention_width=attention.width,
        kv_heads=attention.kv_heads,
        head_size=attention.head_size,
        bits_per_weight=bits,
        unquantized_weights=total - feed_forward.expert_total if is_only_experts else 0,
        vision_weights=read_vision_weights(config),
        full_layers=full,
        window_layers=window,
        window=config.count(config.first_of("sliding_window", "attention_chunk_size")) if window else 0,
        state_layers=state,
        state_bytes=state_bytes,
        latent_width=attention.latent_width,
        feed_forward_width=feed_forward.width,
        experts_per_token=feed_forward.experts,
        expert_width=feed_forward.expert_width,
        max_model_len=config.count_or_zero("max_position_embeddings"),
    )
