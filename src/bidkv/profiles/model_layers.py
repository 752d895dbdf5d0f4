"""The layers of a model by what they remember of a sequence, and the weights of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bidkv.profiles.config_fields import ConfigFields

FULL = "full"
WINDOW = "window"
STATE = "state"
PLAIN = "plain"
"""A layer that remembers nothing (feed-forward alone)."""

_KINDS = {
    "full_attention": FULL,
    "attention": FULL,
    "sliding_attention": WINDOW,
    "sliding_window": WINDOW,
    "chunked_attention": WINDOW,
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
}
_PATTERN = {"*": FULL, "M": STATE, "-": PLAIN, "E": PLAIN}
"""Letters of Nemotron-H's `hybrid_override_pattern`; "-" and "E" are feed-forward layers of their own."""

_STATE_BYTES = 2
_FLOAT32_BYTES = 4


def layer_kinds(config: ConfigFields) -> list[str]:
    """Return the kind of every layer, in order.

    Raises:
        ProfileError: a kind of layer that is not known, or lists of another length than the model.
    """
    layers = config.count("num_hidden_layers")
    names = config.names("layer_types") or config.names("layers_block_type")
    if names is not None:
        field = config.first_of("layer_types", "layers_block_type")
        if len(names) < layers or any(name not in _KINDS for name in names):
            raise config.error(field, f"{layers} of {', '.join(_KINDS)}")
        return [_KINDS[name] for name in names[:layers]]
    pattern = config.get("hybrid_override_pattern")
    if pattern is not None:
        if not isinstance(pattern, str) or len(pattern) != layers or set(pattern) - set(_PATTERN):
            raise config.error("hybrid_override_pattern", f"{layers} letters out of {''.join(_PATTERN)}")
        return [_PATTERN[letter] for letter in pattern]
    if config.has("full_attention_interval"):
        every = config.count("full_attention_interval")
        return [FULL if index % every == every - 1 else STATE for index in range(layers)]
    if config.has("attn_layer_period"):
        every, first = config.count("attn_layer_period"), config.count_or_zero("attn_layer_offset")
        return [FULL if index % every == first else STATE for index in range(layers)]
    if config.has("sliding_window") and config.get("use_sliding_window") is not False:
        return _windowed(config, layers)
    if config.has("ssm_cfg") or config.has("state_size"):
        raise config.error(
            "layer_types", "the layers that are attention (a model without any has no KV cache)"
        )
    return [FULL] * layers


def _windowed(config: ConfigFields, layers: int) -> list[str]:
    pattern = config.first_of("sliding_window_pattern", "_sliding_window_pattern")
    if config.has(pattern):
        every = config.count(pattern)
        return [FULL if index % every == every - 1 else WINDOW for index in range(layers)]
    # Qwen2: the layers below `max_window_layers` keep everything.
    full = min(config.count_or_zero("max_window_layers"), layers) if config.get("use_sliding_window") else 0
    return [FULL] * full + [WINDOW] * (layers - full)


@dataclass(frozen=True, slots=True)
class Attention:
    """The attention of a layer: `weights` of its matrices, `width` of heads times head size.

    `kv_heads` heads of `head_size` values are kept for keys and for values each; `latent_width` values for
    both together in multi-head latent attention, 0 otherwise.
    """

    weights: int
    width: int
    kv_heads: int
    head_size: int
    latent_width: int


def read_attention(config: ConfigFields, hidden: int) -> Attention:
    """Read the shape of attention layers, multi-head latent attention included."""
    heads = config.count("num_attention_heads")
    if config.has("kv_lora_rank"):
        latent, rope = config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
        query_head, value_head = config.count("qk_nope_head_dim") + rope, config.count("v_head_dim")
        queries = hidden * heads * query_head
        if config.has("q_lora_rank"):
            rank = config.count("q_lora_rank")
            queries = hidden * rank + rank * heads * query_head
        keys = hidden * (latent + rope) + latent * heads * (query_head - rope + value_head)
        return Attention(
            queries + keys + heads * value_head * hidden, heads * query_head, 1, latent + rope, latent + rope
        )
    kv_heads = config.count("num_key_value_heads", heads)
    head_size = config.count("head_dim", hidden // heads)
    # Some models gate the output of attention by a second query projection.
    projections = 3 if config.get("attn_output_gate") else 2
    weights = hidden * head_size * (projections * heads + 2 * kv_heads)
    return Attention(weights, heads * head_size, kv_heads, head_size, 0)


def read_state(config: ConfigFields, kinds: Sequence[str], hidden: int) -> tuple[int, int]:
    """Return the weights of a recurrent layer, and the bytes it remembers of a sequence; 0 without any."""
    if STATE not in kinds:
        return 0, 0
    stated = config.get(config.first_of("mamba_ssm_cache_dtype", "mamba_ssm_dtype"))
    value_bytes = _FLOAT32_BYTES if stated == "float32" else _STATE_BYTES
    if config.has("linear_num_value_heads"):  # gated delta net: Qwen3-Next, Qwen3.5
        keys = config.count("linear_num_key_heads") * config.count("linear_key_head_dim")
        heads, size = config.count("linear_num_value_heads"), config.count("linear_value_head_dim")
        values = heads * size
        conv = (config.count("linear_conv_kernel_dim") - 1) * (2 * keys + values) * _STATE_BYTES
        state = values * config.count("linear_key_head_dim") * value_bytes
        return hidden * (2 * keys + 3 * values + 2 * heads), conv + state
    size = config.count(config.first_of("ssm_state_size", "mamba_d_state"))
    kernel = config.count(config.first_of("conv_kernel", "mamba_d_conv"))
    heads_field = config.first_of("mamba_num_heads", "mamba_n_heads")
    if config.has(heads_field):  # Mamba-2: Nemotron-H, Granite 4, Bamba
        heads = config.count(heads_field)
        head_size = config.get(config.first_of("mamba_head_dim", "mamba_d_head"))
        if not isinstance(head_size, int) or isinstance(head_size, bool):
            head_size = config.count("mamba_expand") * hidden // heads
        inner = heads * head_size
        groups = config.count(config.first_of("n_groups", "mamba_n_groups"))
        width = inner + 2 * groups * size
        weights = hidden * (inner + width + heads) + inner * hidden
        return weights, (kernel - 1) * width * _STATE_BYTES + inner * size * value_bytes
    inner = config.count("mamba_expand") * hidden  # Mamba-1: Jamba
    weights = 3 * hidden * inner + inner * (config.count("mamba_dt_rank") * 2 + 2 * size)
    return weights, (kernel - 1) * inner * _STATE_BYTES + inner * size * value_bytes


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Weights of all feed-forward layers together: all of them, and those one token passes through.

    `experts` are chosen for a token, each `expert_width` wide, in a mixture of experts; both are 0 elsewhere,
    where `width` is that of the dense layers.
    """

    total: int
    active: int
    width: int
    experts: int
    expert_width: int
    expert_total: int


def read_feed_forward(config: ConfigFields, kinds: Sequence[str], hidden: int) -> FeedForward:
    """Read the feed-forward layers: gated, dense or a mixture of experts, or dense in the first layers."""
    pattern = config.get("hybrid_override_pattern")
    # In Nemotron-H feed-forward layers stand by themselves and are not gated: two matrices instead of three.
    matrices = 2 if isinstance(pattern, str) else 3
    owners = sum(kind == PLAIN for kind in kinds) if isinstance(pattern, str) else len(kinds)
    found = next((f for f in ("num_local_experts", "num_experts", "n_routed_experts") if config.has(f)), None)
    if found is None or config.get(found) == 1:
        width = config.count("intermediate_size")
        dense = matrices * hidden * width * owners
        return FeedForward(dense, dense, width, 0, 0, 0)
    experts = config.count(found)
    chosen = config.count(config.first_of("num_experts_per_tok", "moe_topk"))
    if chosen > experts:
        raise config.error("num_experts_per_tok", f"at most the {experts} experts")
    width = config.count(config.first_of("moe_intermediate_size", "intermediate_size"))
    expert = matrices * hidden * width
    shared = 0
    if config.has("shared_expert_intermediate_size"):
        shared = matrices * hidden * config.count("shared_expert_intermediate_size")
    elif config.has("shared_intermediate_size"):
        shared = matrices * hidden * config.count("shared_intermediate_size")
    elif config.has("n_shared_experts"):
        size = config.count("moe_shared_expert_intermediate_size", width)
        shared = matrices * hidden * size * config.count("n_shared_experts")
    elif config.get("model_type") in ("llama4", "llama4_text"):
        shared = expert
    router = hidden * experts
    dense_layers = min(config.count_or_zero("first_k_dense_replace"), owners)
    step = config.count(
        config.first_of("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq"), 1
    )
    mixtures = (owners - dense_layers) // step
    if isinstance(pattern, str):
        dense_layers, mixtures = pattern.count("-"), pattern.count("E")
    else:
        dense_layers = owners - mixtures
    dense_width = 0
    if dense_layers:
        dense_width = config.count(config.first_of("intermediate_size_mlp", "intermediate_size"))
    dense = dense_layers * matrices * hidden * dense_width
    return FeedForward(
        total=dense + mixtures * (experts * expert + shared + router),
        active=dense + mixtures * (chosen * expert + shared + router),
        width=dense_width,
        experts=chosen,
        expert_width=width,
        expert_total=mixtures * experts * expert,
    )


def read_vision_weights(config: ConfigFields) -> int:
    """Return the weights of a vision tower's layers, 0 without one or where its fields do not say."""
    vision = config.outer.get("vision_config")
    if not isinstance(vision, dict):
        return 0
    sizes = {}
    for field, names in (
        ("hidden", ("hidden_size", "embed_dim")),
        ("layers", ("num_hidden_layers", "depth")),
        ("width", ("intermediate_size",)),
    ):
        value = next((vision[name] for name in names if name in vision), None)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 10**6:
            return 0
        sizes[field] = value
    gated = vision.get("model_type") == "pixtral" or vision.get("hidden_act") == "silu"
    matrices = 3 if gated else 2
    return sizes["layers"] * sizes["hidden"] * (4 * sizes["hidden"] + matrices * sizes["width"])
