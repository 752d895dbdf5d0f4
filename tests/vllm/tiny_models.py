"""Tiny random models of other kinds than Llama, written from their configurations by `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.engine_model import VOCABULARY

FIRST_LETTER = 2
"""The token of the letter "a" in the tokenizer of :func:`write_tokenizer`; the others follow it."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": None,
    "pad_token_id": None,
}


def _config(kind: str) -> Any:
    import transformers

    if kind == "falcon-h1":  # every layer has full attention and a state beside it
        return transformers.FalconH1Config(
            **_SHAPE,
            head_dim=32,
            num_hidden_layers=2,
            mamba_d_ssm=64,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=32,
        )
    if kind == "granite-hybrid":  # three layers with a state, one with full attention
        return transformers.GraniteMoeHybridConfig(
            **_SHAPE | {"num_attention_heads": 2, "num_key_value_heads": 1},
            num_hidden_layers=4,
            layer_types=["mamba", "mamba", "mamba", "attention"],
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=32,
            num_local_experts=0,
            shared_intermediate_size=128,
            position_embedding_type="rope",
        )
    if kind == "deepseek":  # multi-head latent attention; the sizes are those of the CPU build's kernel
        return transformers.DeepseekV3Config(
            **_SHAPE | {"num_key_value_heads": 4},
            num_hidden_layers=2,
            first_k_dense_replace=2,
            q_lora_rank=32,
            kv_lora_rank=512,
            qk_rope_head_dim=64,
            qk_nope_head_dim=32,
            v_head_dim=32,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
        )
    if kind == "gemma3":  # windows of 64 tokens, and full attention in each fourth layer
        return transformers.Gemma3TextConfig(
            **_SHAPE | {"tie_word_embeddings": True},
            head_dim=32,
            num_hidden_layers=4,
            sliding_window=64,
            layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            query_pre_attn_scalar=32,
        )
    raise ValueError(f"no tiny model of kind {kind!r}")


def write_tokenizer(directory: Path) -> None:
    """Write a tokenizer of letters and made-up words for a vocabulary of :data:`VOCABULARY` tokens."""
    from string import ascii_lowercase

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", *ascii_lowercase]
    words += [f"W{number}" for number in range(len(words), VOCABULARY)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "W999"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(directory)


def write_tiny_model(directory: Path, kind: str, *, seed: int = 7) -> Path:
    """Write configuration and seeded random weights; returns `directory`.

    Weights are larger than a trained model's at its start, so that greedy outputs differ from each other.
    """
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(_config(kind), torch_dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                scale = 10.0 if "embed" in name else 1.5 / weight.shape[-1] ** 0.5
                weight.copy_(torch.randn(weight.shape) * scale)
    model.save_pretrained(directory)
    return directory
