"""A tiny random Llama on disk, which a real engine loads and serves on a CPU.

It says nothing of interest, but its engine schedules, runs out of memory and preempts as with any model.
Random weights give varied greedy outputs (an engine's own dummy weights do not), so that the outputs of two
runs can be compared token by token.
"""

from __future__ import annotations

import json
from pathlib import Path

VOCABULARY = 1000
"""Token ids run from 0 to VOCABULARY - 1; there is no tokenizer and no end-of-sequence token."""

_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _INTERMEDIATE = 128, 2, 4, 2, 256


def write_config(directory: Path, *, max_model_len: int = 4096) -> Path:
    """Write config.json alone, which is all a model-free scheduler needs; returns `directory`."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HIDDEN // _HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": max_model_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_model(directory: Path, *, max_model_len: int = 4096, seed: int = 7) -> Path:
    """Write config.json and seeded random weights (needs torch and safetensors); returns `directory`."""
    import torch
    from safetensors.torch import save_file

    write_config(directory, max_model_len=max_model_len)
    generator = torch.Generator().manual_seed(seed)
    head = _HIDDEN // _HEADS

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * (1.5 / shape[-1] ** 0.5)

    weights = {
        "model.embed_tokens.weight": random(VOCABULARY, _HIDDEN) * 10,
        "model.norm.weight": torch.ones(_HIDDEN),
        "lm_head.weight": random(VOCABULARY, _HIDDEN),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        weights |= {
            f"{prefix}.self_attn.q_proj.weight": random(_HEADS * head, _HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": random(_KV_HEADS * head, _HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": random(_KV_HEADS * head, _HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": random(_HIDDEN, _HEADS * head),
            f"{prefix}.mlp.gate_proj.weight": random(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.up_proj.weight": random(_INTERMEDIATE, _HIDDEN),
            f"{prefix}.mlp.down_proj.weight": random(_HIDDEN, _INTERMEDIATE),
            f"{prefix}.input_layernorm.weight": torch.ones(_HIDDEN),
            f"{prefix}.post_attention_layernorm.weight": torch.ones(_HIDDEN),
        }
    save_file(weights, str(directory / "model.safetensors"), metadata={"format": "pt"})
    return directory
