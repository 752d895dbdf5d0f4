"""Frozen workloads: what comes back is what was frozen, or an error that says why not."""

import json

import pytest

from bidkv.workloads import freeze, generate, load_frozen, manifest_path
from bidkv.workloads.traces import TraceError


@pytest.fixture
def frozen(tmp_path):
    path = tmp_path / "workload.jsonl"
    freeze(generate("multi_turn", n=50, rate_rps=2.0, seed=1), path, source={"name": "multi_turn", "seed": 1})
    return path


def test_a_frozen_workload_comes_back_equal_with_its_manifest(frozen):
    requests = list(generate("multi_turn", n=50, rate_rps=2.0, seed=1))
    manifest, loaded = load_frozen(frozen)
    assert list(loaded) == requests
    assert manifest.requests == 50
    assert manifest.prompt_tokens == sum(r.prompt_tokens for r in requests)
    assert manifest.output_tokens == sum(r.output_tokens for r in requests)
    assert (manifest.first_arrival_s, manifest.last_arrival_s) == (0.0, requests[-1].arrival_s)
    assert manifest.source == {"name": "multi_turn", "seed": 1}


def test_freezing_again_gives_the_same_bytes(frozen, tmp_path):
    freeze(generate("multi_turn", n=50, rate_rps=2.0, seed=1), tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == frozen.read_bytes()


def test_a_changed_byte_is_found(frozen):
    content = frozen.read_bytes()
    frozen.write_bytes(content.replace(b'"output_length": ', b'"output_length": 1', 1))
    with pytest.raises(TraceError, match=r"workload\.jsonl: expected the file that was frozen, SHA-256"):
        load_frozen(frozen)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m.pop("sha256"), "exactly the fields"),
        (lambda m: m.update(extra=1), "exactly the fields"),
        (lambda m: m.update(requests="50"), "field 'requests'"),
        (lambda m: m.update(requests=True), "field 'requests'"),
        (lambda m: m.update(version=2), "field 'version': expected 1, found 2"),
    ],
)
def test_a_broken_manifest_is_named(frozen, change, part):
    manifest = json.loads(manifest_path(frozen).read_text())
    change(manifest)
    manifest_path(frozen).write_text(json.dumps(manifest))
    with pytest.raises(TraceError, match=part):
        load_frozen(frozen)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"[" * 100_000, b"NaN"])
def test_a_manifest_of_rubbish_is_a_trace_error(frozen, content):
    manifest_path(frozen).write_bytes(content)
    with pytest.raises(TraceError, match="manifest"):
        load_frozen(frozen)


def test_missing_files_are_named(frozen, tmp_path):
    with pytest.raises(TraceError, match="no manifest"):
        load_frozen(tmp_path / "other.jsonl")
    frozen.unlink()
    with pytest.raises(TraceError, match="cannot be read"):
        load_frozen(frozen)


@pytest.mark.parametrize("source", [{"law": {1, 2}}, {"rate": float("nan")}])
def test_a_source_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, source):
    with pytest.raises(ValueError, match="JSON"):
        freeze(generate("mixed", n=5, rate_rps=1.0, seed=0), tmp_path / "w.jsonl", source=source)
    assert list(tmp_path.iterdir()) == []
