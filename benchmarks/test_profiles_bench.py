"""What asking a profile costs: `pytest benchmarks/test_profiles_bench.py`."""

from typing import Any

from bidkv.profiles import load_profile

PROFILE = load_profile("h100-llama3.1-8b")
CALLS = range(1000)


def test_a_thousand_decode_steps(benchmark: Any) -> None:
    step_s = PROFILE.step_s
    total = benchmark(lambda: sum(step_s(0, 0.0, 20, 9000) for _ in CALLS))
    assert total > 0.0


def test_a_thousand_mixed_steps(benchmark: Any) -> None:
    step_s = PROFILE.step_s
    total = benchmark(lambda: sum(step_s(700, 5e4, 20, 9000, 2) for _ in CALLS))
    assert total > 0.0
