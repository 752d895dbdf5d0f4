"""The real scheduler over a trace does what the simulator does, so that their speed can be compared."""

from __future__ import annotations

import json

from benchmarks.requests_of import requests_of
from benchmarks.vllm import real_run

from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.simulator import EngineConfig, simulate

PROFILE = "h100-llama3.1-8b"


def test_both_take_the_same_steps_at_the_same_times(capsys) -> None:
    real_run.main("azure-conv", "120", "300", "16", PROFILE)
    real = json.loads(capsys.readouterr().out.splitlines()[-1])
    engine = EngineConfig(num_gpu_blocks=300, max_num_seqs=16)
    requests = requests_of("azure-conv", 120, engine)
    simulated = simulate(requests, resolve("preempt-evict"), engine, load_profile(PROFILE), backend="python")
    totals = simulated.totals
    assert (real["requests"], real["steps"]) == (len(simulated.records), totals.steps)
    assert (real["scheduled_tokens"], real["preemptions"]) == (totals.scheduled_tokens, totals.preemptions)
    assert real["simulated_s"] == simulated.simulated_s
    assert totals.preemptions > 10
    assert real["cpu_s"] >= real["calls_cpu_s"] > 0
