from __future__ import annotations

import json
from pathlib import Path

import pytest

from bidkv.profiles import ProfileError, dump_profile, read_profile
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
        ({"num_local_experts": 8}, "field num_local_experts: expected a dense model with plain attention"),
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
    with pytest.raises(ProfileError, match=r"unknown GPU 'tpu': expected one of a100-80gb, h100"):
        analytic_profile("llama-3.1-8b", "tpu")
    with pytest.raises(ProfileError, match=r"model llama-9: expected a packaged shape \(llama-3\.1-8b\)"):
        read_shape("llama-9")
    broken = tmp_path / "config.json"
    broken.write_text("{\n,", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"config\.json: line 2: not JSON"):
        read_shape(broken)
