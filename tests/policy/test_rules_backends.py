"""Every policy, clairvoyant ones included, decides alike in both backends and never walks the queue."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bidkv.policy import available, resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, VllmStepEngine, simulate

pytest.importorskip("numba")


def pressed(rng: random.Random) -> tuple[EngineConfig, list[WorkloadRequest]]:
    """A cache that holds a few of its requests, and arrivals faster than they are served."""
    config = EngineConfig(
        num_gpu_blocks=rng.randint(60, 140), max_num_seqs=rng.choice((4, 16)), max_num_batched_tokens=256
    )
    now_s, requests = 0.0, []
    for index in range(80):
        now_s += rng.expovariate(60.0)
        output = rng.randint(1, 200)
        cap = rng.choice((None, output, 250))
        requests.append(
            WorkloadRequest(
                f"r{index}", now_s, rng.randint(1, 600), output, max_tokens=cap, priority=rng.randint(0, 2)
            )
        )
    return config, requests


@pytest.mark.parametrize("name", [name for name in available() if not resolve(name).needs_sessions])
def test_both_backends_decide_alike(name: str) -> None:
    profile = load_profile("h100-llama3.1-8b")
    preemptions = 0
    for seed in range(4):
        config, requests = pressed(random.Random(seed))
        stepped = simulate(requests, resolve(name), config, profile, backend="python")
        leaped = simulate(requests, resolve(name), config, profile, backend="compiled")
        assert stepped.records == leaped.records
        assert stepped.totals == leaped.totals
        assert stepped.notes["control"]["failures"] == leaped.notes["control"]["failures"] == 0
        preemptions += stepped.totals.preemptions
    assert preemptions > 0 or resolve(name).clairvoyant


@pytest.mark.parametrize("name", available())
def test_no_policy_walks_the_whole_queue(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    list_waiting = VllmStepEngine.waiting

    def waiting(engine: VllmStepEngine) -> Any:
        # Where nothing runs and a policy admits none, the controller itself admits the first.
        assert not engine.running, "a walk over the waiting requests at every event is quadratic in the end"
        return list_waiting(engine)

    monkeypatch.setattr(VllmStepEngine, "waiting", waiting)
    config, requests = pressed(random.Random(9))
    result = simulate(requests, resolve(name), config, load_profile("h100-llama3.1-8b"), backend="python")
    assert result.notes["control"]["failures"] == 0
    assert len(result.completed) == len(requests)
