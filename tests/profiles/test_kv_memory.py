"""Layers of several kinds, parallelism and KV types, against figures of published models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bidkv.profiles import ProfileError
from bidkv.profiles.analytic import ServerMemory, analytic_profile, find_gpu, read_shape
from bidkv.profiles.kv_memory import count_kv

_SERVER = ServerMemory(max_model_len=32_768)


def _model(directory: Path, **fields: object) -> Path:
    config = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
        "max_position_embeddings": 32_768,
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
    return directory


def _tokens(model: Path, server: ServerMemory = _SERVER, gpu: str = "h100") -> int:
    sheet = find_gpu(gpu)
    return count_kv(read_shape(model), sheet.memory_bytes, server, has_nvlink=sheet.has_nvlink).tokens


def test_a_kv_type_of_eight_bits_doubles_the_tokens(tmp_path: Path) -> None:
    model = _model(tmp_path)
    assert _tokens(model, replace(_SERVER, kv_cache_dtype="fp8")) == pytest.approx(
        2 * _tokens(model), rel=1e-4
    )
    with pytest.raises(ProfileError, match="kv_cache_dtype: expected one of auto, bfloat16"):
        _tokens(model, replace(_SERVER, kv_cache_dtype="int3"))


def test_windows_save_memory_in_long_contexts_only(tmp_path: Path) -> None:
    plain = _tokens(_model(tmp_path / "plain"))
    mixed = _model(tmp_path / "mixed", sliding_window=1024, sliding_window_pattern=4)
    shape = read_shape(mixed)
    assert (shape.full_layers, shape.window_layers, shape.window) == (8, 24, 1024)
    long = _tokens(mixed)
    # Four groups of eight layers: a request of 32,768 tokens holds 2,048 blocks and 3 x 193, plain 4 x 2,048.
    assert long / plain == pytest.approx(4 * 2048 / (2048 + 3 * 193), rel=0.01)
    assert _tokens(mixed, replace(_SERVER, max_model_len=2048)) == pytest.approx(plain, rel=0.01)


def test_every_layer_of_mistral_has_its_window_and_none_of_qwen_without_it(tmp_path: Path) -> None:
    assert read_shape(_model(tmp_path, sliding_window=4096)).window_layers == 32
    off = _model(tmp_path, sliding_window=4096, use_sliding_window=False, max_window_layers=28)
    assert read_shape(off).window_layers == 0
    on = _model(tmp_path, sliding_window=4096, use_sliding_window=True, max_window_layers=28)
    assert (read_shape(on).full_layers, read_shape(on).window_layers) == (28, 4)


def test_gemma_is_known_by_its_architecture_and_its_omitted_fields_are_those_of_its_class(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["Gemma3ForConditionalGeneration"],
                "text_config": {
                    "hidden_size": 3840,
                    "intermediate_size": 15360,
                    "num_attention_heads": 16,
                    "num_hidden_layers": 48,
                    "num_key_value_heads": 8,
                    "vocab_size": 262208,
                    "sliding_window": 1024,
                },
                "vision_config": {"hidden_size": 1152},
            }
        )
    )
    shape = read_shape(tmp_path)
    assert (shape.full_layers, shape.window_layers, shape.head_size) == (8, 40, 256)
    # 11.8 billion parameters of text.
    assert shape.layer_weights + shape.head_weights == pytest.approx(11.77e9, rel=0.01)


def test_latent_attention_keeps_one_latent_on_every_gpu(tmp_path: Path) -> None:
    deepseek = _model(
        tmp_path,
        hidden_size=7168,
        num_hidden_layers=61,
        num_attention_heads=128,
        num_key_value_heads=128,
        vocab_size=129280,
        intermediate_size=18432,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        n_shared_experts=1,
        num_experts_per_tok=8,
        first_k_dense_replace=3,
        kv_lora_rank=512,
        q_lora_rank=1536,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        quantization_config={"quant_method": "fp8"},
    )
    shape = read_shape(deepseek)
    # DeepSeek-V3: 671 billion parameters without its extra prediction layer, 37 billion of them active.
    assert shape.layer_weights + 2 * shape.head_weights == pytest.approx(671e9, rel=0.01)
    assert shape.active_weights + shape.head_weights == pytest.approx(37e9, rel=0.03)
    assert shape.kv_bytes_per_token() == 61 * 576 * 2
    memory = count_kv(
        shape, find_gpu("h200").memory_bytes, replace(_SERVER, tensor_parallel=8), has_nvlink=True
    )
    assert memory.tokens == pytest.approx(memory.kv_bytes / (61 * 576 * 2), rel=1e-3)
    with pytest.raises(ProfileError, match="expected weights that fit: they take 67"):
        _tokens(deepseek)


def test_recurrent_layers_hold_a_state_and_make_the_pages_larger(tmp_path: Path) -> None:
    hybrid = {
        "model_type": "qwen3_next",
        "num_hidden_layers": 40,
        "full_attention_interval": 4,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "linear_num_value_heads": 32,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
        "mamba_ssm_dtype": "float32",
    }
    model = _model(tmp_path, **hybrid)
    shape = read_shape(model)
    assert (shape.full_layers, shape.state_layers) == (10, 30)
    # 32 heads of 128 x 128 values of 4 bytes, and three past inputs of the convolution.
    assert shape.state_bytes == 32 * 128 * 128 * 4 + 3 * 8192 * 2
    plain = _tokens(_model(tmp_path / "plain", num_hidden_layers=10, num_key_value_heads=2, head_dim=256))
    # A request of 32,768 tokens holds 31 pages of 1,072 tokens and two states in each of three groups.
    server = replace(_SERVER, max_model_len=131_072)
    assert _tokens(model, server) < plain
    assert _tokens(model, replace(server, enable_prefix_caching=False)) > _tokens(model, server)


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        ({"hybrid_override_pattern": "M-M*E" * 2, "num_hidden_layers": 10}, (2, 0, 4)),
        ({"layer_types": ["mamba"] * 9 + ["attention"], "num_hidden_layers": 10}, (1, 0, 9)),
        ({"attn_layer_period": 5, "attn_layer_offset": 2, "num_hidden_layers": 10}, (2, 0, 8)),
        ({"layer_types": ["sliding_attention", "full_attention"] * 5, "num_hidden_layers": 10}, (5, 5, 0)),
    ],
)
def test_the_ways_in_which_configs_name_their_layers(
    tmp_path: Path, fields: dict[str, object], kinds: tuple[int, int, int]
) -> None:
    mamba = {"mamba_d_state": 128, "mamba_d_conv": 4, "mamba_n_heads": 128, "mamba_d_head": 64}
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    shape = read_shape(_model(tmp_path, mamba_n_groups=1, sliding_window=128, **mamba, **experts, **fields))
    assert (shape.full_layers, shape.window_layers, shape.state_layers) == kinds


def test_stages_leave_the_last_one_the_least_room(tmp_path: Path) -> None:
    model = _model(tmp_path)
    one, four = _tokens(model), _tokens(model, replace(_SERVER, pipeline_parallel=4))
    assert 4 * one < four < 6 * one
    with pytest.raises(ProfileError, match="pipeline_parallel: expected 1 to the model's 32 layers, got 33"):
        _tokens(model, replace(_SERVER, pipeline_parallel=33))
    # Every batch waits for all weights, so a small batch decodes no faster on four stages.
    steps = [
        analytic_profile(model, "h100", server=replace(_SERVER, pipeline_parallel=stages)).step_s(
            0, 0.0, 1, 100
        )
        for stages in (1, 4)
    ]
    assert steps[1] == pytest.approx(steps[0], rel=0.01)


def test_names_of_gpus_in_any_case() -> None:
    assert find_gpu("H100") == find_gpu("h100-sxm")
    assert find_gpu("RTX 4090") == find_gpu("rtx-4090") == find_gpu("RTX4090")
    assert find_gpu("MI300X").memory_bytes > find_gpu("B200").memory_bytes
