"""Bits per weight of a model, from the `quantization_config` of its config.json."""

from __future__ import annotations

from collections.abc import Mapping

from bidkv.profiles.config_fields import ConfigFields
from bidkv.profiles.errors import ProfileError, quoted

_GROUP_BITS = 0.25
"""Bits per weight that scales and zero points of 4-bit weights in groups of 128 add (16 + 16 in 128)."""


def bits_per_weight(config: ConfigFields) -> tuple[float, bool]:
    """Return the bits of a weight of the layers, and whether only the experts have them.

    Without a `quantization_config` weights have 16 bits.

    Raises:
        ProfileError: a method or a number of bits that is not known.
    """
    stated = config.outer.get("quantization_config")
    if stated is None:
        stated = config.get("quantization_config")
    if stated is None:
        stated = config.outer.get("compression_config")
    if stated is None:
        return 16.0, False
    if not isinstance(stated, dict):
        raise ProfileError(
            f"{config.where}: field quantization_config: expected an object, got {quoted(stated)}"
        )
    method = stated.get("quant_method")
    if method in ("fp8", "fbgemm_fp8"):
        return 8.0, False
    bits: object = None
    if method in ("awq", "gptq", "auto-round", "auto_round"):
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
            f"{config.where}: field quantization_config: expected fp8, awq, gptq, auto-round, mxfp4, "
            "bitsandbytes, modelopt or compressed-tensors with 2 to 8 bits per weight, "
            f"got {quoted(method)} with {quoted(bits)}"
        )
    return float(bits) + (_GROUP_BITS if bits != 8 else 0.0), method == "mxfp4"


def _first_group_bits(stated: Mapping[str, object]) -> object:
    groups = stated.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = first.get("weights") if isinstance(first, dict) else None
    return weights.get("num_bits") if isinstance(weights, dict) else None
