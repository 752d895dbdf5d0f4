from __future__ import annotations

import json
from pathlib import Path

import pytest

from bidkv.profiles import ProfileError, dump_profile, load_profile, read_profile
from bidkv.profiles.analytic import (
    BANDWIDTH_SHARE,
    FLOPS_SHARE,
    HOST_REQUEST_S,
    HOST_STEP_S,
    analytic_profile,
    gpus,
    read_shape,
)


def test_the_shape_of_llama_8b_is_the_published_one() -> None:
    shape = read_shape("llama-3.1-8b")
    # 8.03 billion parameters, of which the input embedding is only looked up and the norms are vectors.
    assert shape.layer_weights + 2 * shape.head_weights == pytest.approx(8.03e9, rel=1e-3)
    assert shape.kv_bytes_per_token() == 131_072


def test_a_small_decode_reads_the_weights_and_a_large_prefill_computes() -> None:
    profile, sheet, shape = (
        analytic_profile("llama-3.1-8b", "h100-sxm"),
        gpus()["h100-sxm"],
        read_shape("llama-3.1-8b"),
    )
    weights_s = 2 * (shape.layer_weights + shape.head_weights) / (BANDWIDTH_SHARE * sheet.memory_bytes_per_s)
    assert profile.step_s(0, 0.0, 1, 0) == pytest.approx(HOST_STEP_S + HOST_REQUEST_S + weights_s)
    flops = 2 * shape.layer_weights * 8192
    assert profile.step_s(8192, 0.0, 0, 0) == pytest.approx(
        HOST_STEP_S + flops / (FLOPS_SHARE * sheet.bf16_flops)
    )


def test_better_data_sheets_give_faster_steps_and_every_gpu_has_a_source() -> None:
    decode = {name: analytic_profile("llama-3.1-8b", name).step_s(0, 0.0, 32, 30_000) for name in gpus()}
    assert decode["h200"] < decode["h100-sxm"] < decode["a100-80gb"] < decode["l40s"] < decode["l4"]
    prefill = {name: analytic_profile("llama-3.1-8b", name).step_s(2048, 2e6, 0, 2048, 1) for name in gpus()}
    assert prefill["h100-sxm"] < prefill["l40s"] < prefill["a100-80gb"] < prefill["l4"]
    assert all("data sheet" in gpu.source for gpu in gpus().values())


def test_it_is_marked_as_analytic_also_when_written() -> None:
    profile = analytic_profile("llama-3.1-8b", "h200", name="mine")
    written = read_profile(dump_profile(profile), "mine.json")
    assert (written.kind, written.name) == ("analytic", "mine")
    assert "never measured" in written.notes


def _config(directory: Path, **changed: object) -> Path:
    config: dict[str, object] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "vocab_size": 1000,
    }
    (directory / "config.json").write_text(json.dumps(config | changed), encoding="utf-8")
    return directory


def test_a_config_without_grouped_heads_has_as_many_key_value_heads(tmp_path: Path) -> None:
    shape = read_shape(_config(tmp_path))
    assert (shape.attention_width, shape.kv_width) == (64, 64)
    assert shape.layer_weights == 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert read_shape(tmp_path / "config.json") == shape


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": "big"}, "field hidden_size: expected a whole number above 0, got 'big'"),
        ({"num_hidden_layers": 0}, "field num_hidden_layers: expected a whole number above 0, got 0"),
        ({"vocab_size": None}, "field vocab_size: expected a whole number above 0, got None"),
        ({"num_local_experts": 8}, "field num_experts_per_tok: expected a whole number above 0, got None"),
        ({"num_experts": 4, "num_experts_per_tok": 5}, "num_experts_per_tok: expected at most the 4 experts"),
        ({"kv_lora_rank": 512}, "field qk_rope_head_dim: expected a whole number above 0, got None"),
        ({"sliding_window": "wide"}, "field sliding_window: expected a whole number above 0, got 'wide'"),
        ({"layer_types": ["full_attention", "new"]}, "field layer_types: expected 2 of full_attention, "),
        ({"layer_types": ["mamba", "mamba"]}, "field ssm_state_size: expected a whole number above 0"),
        ({"hybrid_override_pattern": "M?"}, "field hybrid_override_pattern: expected 2 letters out of"),
        ({"state_size": 16}, "(a model without any has no KV cache)"),
        (
            {"text_config": {"hidden_size": "two"}},
            "field hidden_size: expected a whole number above 0, got 'two'",
        ),
        ({"quantization_config": {"quant_method": "new"}}, "quantization_config: expected fp8, awq, gptq"),
        ({"quantization_config": {"quant_method": "awq", "bits": 5}}, "'awq' with 5"),
    ],
)
def test_a_config_that_cannot_be_used_is_named(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        read_shape(_config(tmp_path, **changed))
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)


def test_unknown_names_list_what_exists(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"unknown GPU 'tpu': expected one of a10, a100-40gb, a100-80gb"):
        analytic_profile("llama-3.1-8b", "tpu")
    with pytest.raises(ProfileError, match=r"model llama-9: expected a packaged shape \(llama-3\.1-70b, "):
        read_shape("llama-9")
    broken = tmp_path / "config.json"
    broken.write_text("{\n,", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"config\.json: line 2: not JSON"):
        read_shape(broken)


def test_the_published_sizes_of_other_models() -> None:
    large, experts = read_shape("llama-3.1-70b"), read_shape("qwen3-30b-a3b")
    assert large.weight_bytes == pytest.approx(2 * 70.55e9, rel=2e-3)
    assert large.kv_bytes_per_token() == 327_680
    # 30.5 billion parameters, of which a token passes 3.3 billion; embedding and output projection included.
    assert experts.weight_bytes == pytest.approx(2 * 30.53e9, rel=5e-3)
    assert experts.active_weights + experts.head_weights == pytest.approx(3.3e9, rel=0.1)


def test_a_mixture_of_experts_reads_all_and_computes_a_few(tmp_path: Path) -> None:
    dense = read_shape(_config(tmp_path))
    mixed = read_shape(_config(tmp_path, num_local_experts=8, num_experts_per_tok=2))
    expert, router = 3 * 64 * 128, 64 * 8
    assert mixed.layer_weights - dense.layer_weights == 2 * (7 * expert + router)
    assert mixed.active_weights - dense.active_weights == 2 * (expert + router)


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 8.0),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.25),
        ({"quant_method": "gptq", "bits": 8}, 8.0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.25),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
            },
            8.0,
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.25),
    ],
)
def test_quantized_weights_are_read_faster_and_leave_more_blocks(
    tmp_path: Path, quantization: dict[str, object], bits: float
) -> None:
    big = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 14336,
    }
    plain = analytic_profile(_config(tmp_path, **big), "l40s")
    shape = read_shape(_config(tmp_path, **big, quantization_config=quantization))
    assert shape.bits_per_weight == bits
    profile = analytic_profile(tmp_path, "l40s")
    assert profile.decode.host.base_s - HOST_STEP_S == pytest.approx(
        (plain.decode.host.base_s - HOST_STEP_S) * bits / 16, rel=0.02
    )
    assert profile.num_gpu_blocks is not None
    assert plain.num_gpu_blocks is not None
    saved_bytes = shape.layer_weights * (16 - bits) / 8
    assert profile.num_gpu_blocks - plain.num_gpu_blocks == pytest.approx(
        saved_bytes / (16 * shape.kv_bytes_per_token()), rel=0.01
    )


def test_a_text_model_inside_a_multimodal_config_is_found(tmp_path: Path) -> None:
    text = json.loads((_config(tmp_path) / "config.json").read_text(encoding="utf-8"))
    plain = read_shape(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"vision_config": {"hidden_size": 9}, "text_config": text})
    )
    assert read_shape(tmp_path) == plain


def test_weights_that_do_not_fit_are_refused_and_the_fewest_gpus_named() -> None:
    with pytest.raises(
        ProfileError, match=r"take 141\.1 GB, and 1 x 23\.7 GB have 19\.4 GB .* at least 8 such GPUs"
    ):
        analytic_profile("llama-3.1-70b", "l4")
    fits = analytic_profile("llama-3.1-70b", "l4", tensor_parallel=8)
    assert fits.num_gpu_blocks is not None
    assert "8 x l4" in fits.notes
    with pytest.raises(ProfileError, match="expected a divisor of the model's 64 attention heads, got 3"):
        analytic_profile("llama-3.1-70b", "h200", tensor_parallel=3)


def test_an_h100_holds_as_many_blocks_of_llama_8b_as_the_packaged_profile_says() -> None:
    analytic, fitted = analytic_profile("llama-3.1-8b", "h100-sxm"), load_profile("h100-llama3.1-8b")
    assert analytic.num_gpu_blocks == pytest.approx(fitted.num_gpu_blocks, rel=1e-3)


def test_more_gpus_are_faster_but_by_less_than_their_number() -> None:
    one = analytic_profile("llama-3.1-8b", "h100-sxm").step_s(0, 0.0, 32, 60_000)
    four = analytic_profile("llama-3.1-8b", "h100-sxm", tensor_parallel=4).step_s(0, 0.0, 32, 60_000)
    assert one / 4 < four < one
