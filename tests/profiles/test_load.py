from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bidkv.profiles import ProfileError, dump_profile, load_profile, profile_names, read_profile

VALID: dict[str, Any] = json.loads(dump_profile(load_profile("h100-llama3.1-8b")))


def test_a_profile_survives_being_written_and_read(tmp_path: Path) -> None:
    for name in profile_names():
        profile = load_profile(name)
        path = tmp_path / f"{name}.json"
        path.write_text(dump_profile(profile, evidence={"steps": 3}), encoding="utf-8")
        assert load_profile(path) == profile


def test_an_unknown_name_lists_what_exists() -> None:
    with pytest.raises(ProfileError, match=r"unknown profile 'h200': expected one of .*h100-llama3.1-8b"):
        load_profile("h200")
    with pytest.raises(ProfileError, match=r"nowhere\.json: cannot be read"):
        load_profile("nowhere.json")


def _broken(path: str, value: object) -> str:
    document = copy.deepcopy(VALID)
    *parents, last = path.split("/")
    place = document
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", "v0", "field format: expected 'bidkv-step-time-profile/1', got 'v0'"),
        ("kind", "guessed", "field kind: expected 'fitted' or 'analytic', got 'guessed'"),
        ("name", 3, "field name: expected text, got 3"),
        ("graph_max_tokens", -1, "field graph_max_tokens: expected a whole number >= 0, got -1"),
        ("graph_max_tokens", 10**25, "field graph_max_tokens: expected at most 1,000,000 tokens"),
        ("prefill_graphs", "no", "field prefill_graphs: expected true or false, got 'no'"),
        ("empty_step_s", None, "field empty_step_s: expected a number of seconds up to 1e+09, got None"),
        ("regimes/eager", ..., "field regimes: expected also eager"),
        ("regimes/eager/tpu", {}, "field regimes.eager: unknown tpu; expected only host, gpu"),
        ("regimes/decode/gpu", [], "field regimes.decode.gpu: expected an object, got list"),
        ("regimes/decode/gpu/base_ms", 7.0, "field regimes.decode.gpu: unknown base_ms"),
        ("regimes/decode/gpu/per_token_s", -1e-6, "regimes.decode.gpu.per_token_s: expected at least 0 s"),
        ("regimes/graph", {"host": {}, "gpu": {}}, "field regimes.graph: expected base_s > 0"),
    ],
)
def test_a_broken_field_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(ProfileError) as caught:
        read_profile(_broken(path, value), where="mine.json")
    assert str(caught.value).startswith("mine.json: ")
    assert message in str(caught.value)


def test_text_that_is_not_json_is_named() -> None:
    with pytest.raises(ProfileError, match=r"mine\.json: line 2: not JSON"):
        read_profile('{\n"format": }', where="mine.json")
