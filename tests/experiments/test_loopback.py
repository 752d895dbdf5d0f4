"""What an experiment starts listens on the loopback address alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from bidkv.experiments import server_launch
from bidkv.experiments.collector import Reading
from bidkv.experiments.driver import EngineFacts
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.parallel import connect_dask


def no_facts(url: str, reading: Reading) -> EngineFacts:
    raise AssertionError("no server was started")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_server_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Literal["vllm", "sglang"]
) -> None:
    specs: list[Any] = []
    monkeypatch.setattr(server_launch, "ServerDriver", lambda spec, *rest: specs.append(spec))
    given = RunnerOptions(strategies="bidkv", output_dir=tmp_path, server_args="--seed 3")
    server_launch.make_server_driver(
        given, engine, "mine", ["--model", "mine"], {}, no_facts, tmp_path, lambda line: None
    )
    words = list(specs[0].command)
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[-2:] == ["--seed", "3"], "the operator's own arguments come last"


def test_dask_starts_without_its_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []

    def get_client() -> None:
        raise ValueError("no cluster is connected")

    fake = SimpleNamespace(Client=lambda **options: started.append(options), get_client=get_client)
    monkeypatch.setitem(sys.modules, "distributed", fake)
    connect_dask(3)
    assert started == [{"n_workers": 3, "threads_per_worker": 1, "dashboard_address": None}]
    fake.get_client = lambda: "a cluster"
    connect_dask(3)
    assert len(started) == 1, "a cluster that is connected is used"
