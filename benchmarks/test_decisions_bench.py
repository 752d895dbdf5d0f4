"""What one decision costs: `pytest benchmarks/test_decisions_bench.py`."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bidkv.control import Controller
from bidkv.policy import available, resolve
from bidkv.profiles import load_profile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, SimRequest, VllmStepEngine

RUNNING = (256, 2048)


def full_engine(policy: Policy, running: int, *, spare_blocks: int) -> tuple[Controller, VllmStepEngine]:
    """An engine with `running` decoding requests and memory for `spare_blocks` blocks more than they took."""
    draw = random.Random(0)
    sources = [
        WorkloadRequest(f"r{i}", i * 1e-3, draw.randint(50, 500), 10_000, max_tokens=10_000)
        for i in range(running)
    ]
    needed = sum(-(-source.prompt_tokens // 16) for source in sources)
    config = EngineConfig(
        num_gpu_blocks=1 + needed + spare_blocks,
        max_num_seqs=running,
        max_num_batched_tokens=1_000_000,
        max_model_len=16_000,
    )
    control = Controller(policy, time_budget_s=None)
    engine = VllmStepEngine(config, load_profile("h100-llama3.1-8b"), control)
    for source in sources:
        engine.submit(SimRequest(source, config.model_len))
    engine.step()
    assert len(engine.running) == running or control.keeps_reserve or control.chooses_next
    return control, engine


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("name", [name for name in available() if resolve(name).chooses_victims])
def test_one_victim(benchmark: Any, name: str, running: int) -> None:
    control, engine = full_engine(resolve(name), running, spare_blocks=0)
    candidates = tuple(engine.running)
    victim = benchmark(lambda: control.policy.select_victim(candidates, 1, engine))
    assert victim in candidates
    benchmark.extra_info["running"] = len(candidates)


@pytest.mark.parametrize("running", RUNNING)
def test_a_step_short_of_one_block(benchmark: Any, running: int) -> None:
    """The whole question: the demand, the candidates, one victim, and the demand without it."""
    _, engine = full_engine(resolve("lcf"), running, spare_blocks=0)
    control, engine = full_engine(resolve("lcf"), running, spare_blocks=engine.block_demand(frozenset()) - 1)
    victims = benchmark(lambda: control.before_step(engine))
    assert len(victims) == 1


@pytest.mark.parametrize("running", RUNNING)
def test_a_step_without_pressure(benchmark: Any, running: int) -> None:
    control, engine = full_engine(resolve("lcf"), running, spare_blocks=10 * running)
    victims = benchmark(lambda: control.before_step(engine))
    assert len(victims) == 0
