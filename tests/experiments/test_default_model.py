"""An experiment that names no model gets one, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from bidkv.adapters.server_setup import ServerSetup
from bidkv.experiments import tiny_model
from bidkv.experiments.server_launch import DEFAULT_MODEL, choose_model


def setup(on_cpu: bool) -> ServerSetup:
    return ServerSetup("engine 1.0", (), {"A": "1"}, (), on_cpu)


def test_a_named_model_is_taken(tmp_path: Path) -> None:
    said: list[str] = []
    options = {"model": "mine", "max_num_seqs": 4}
    assert choose_model(options, setup(True), tmp_path, said.append) == (options, {"A": "1"})
    assert said == []
    assert list(tmp_path.iterdir()) == []


def test_on_a_gpu_the_default_comes_out_of_the_cache(tmp_path: Path) -> None:
    said: list[str] = []
    options, environment = choose_model({"max_num_seqs": 4}, setup(False), tmp_path, said.append)
    assert options == {"max_num_seqs": 4, "model": DEFAULT_MODEL}
    assert environment == {"A": "1", "HF_HUB_OFFLINE": "1"}
    assert DEFAULT_MODEL in said[0]
    assert "nothing is fetched" in said[0]


def test_on_a_cpu_a_tiny_model_is_written_once_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def write_model(folder: Path) -> None:
        written.append(tiny_model.write_config(folder))
        (folder / "model.safetensors").touch()

    monkeypatch.setattr(tiny_model, "write_model", write_model)
    for _ in range(2):
        said: list[str] = []
        options, environment = choose_model({}, setup(True), tmp_path, said.append)
        assert options == {"model": str(tmp_path / "tiny-model")}
        assert environment == {"A": "1"}
        assert str(tmp_path / "tiny-model") in said[0]
    assert written == [tmp_path / "tiny-model"]
