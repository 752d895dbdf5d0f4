"""A tiny Llama on disk: a configuration and, for real runs, random weights of a fixed seed."""

import json
from pathlib import Path

VOCABULARY = 1000
CONTEXT_LENGTH = 2048
_HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KV_HEADS = 128, 256, 2, 4, 2


def write_config(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT_LENGTH,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "dtype": "float32",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write the configuration and random weights; large enough to give outputs that vary."""
    import torch
    from safetensors.torch import save_file

    write_config(folder)
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * 0.2

    head_dim = _HIDDEN // _HEADS
    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, _HIDDEN) * 5,
        "model.norm.weight": torch.ones(_HIDDEN),
        "lm_head.weight": matrix(VOCABULARY, _HIDDEN),
    }
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{name}.weight"] = torch.ones(_HIDDEN)
        for name, rows in (("q", _HIDDEN), ("k", _KV_HEADS * head_dim), ("v", _KV_HEADS * head_dim)):
            tensors[f"{prefix}.self_attn.{name}_proj.weight"] = matrix(rows, _HIDDEN)
        tensors[f"{prefix}.self_attn.o_proj.weight"] = matrix(_HIDDEN, _HIDDEN)
        tensors[f"{prefix}.mlp.gate_proj.weight"] = matrix(_INTERMEDIATE, _HIDDEN)
        tensors[f"{prefix}.mlp.up_proj.weight"] = matrix(_INTERMEDIATE, _HIDDEN)
        tensors[f"{prefix}.mlp.down_proj.weight"] = matrix(_HIDDEN, _INTERMEDIATE)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder
