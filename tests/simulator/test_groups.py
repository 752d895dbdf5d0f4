"""Windows and states beside full attention: rules 22 to 25, worked out by hand, and what is not simulated."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import EngineConfig, simulate
from bidkv.simulator.request import SimRequest
from bidkv.simulator.vllm.engine import VllmStepEngine
from bidkv.simulator.vllm.groups import GroupBlocks

PROFILE = load_profile("h100-llama3.1-8b")
WINDOWED = EngineConfig(
    30, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64, sliding_windows=(8,)
)

STATES = EngineConfig(
    30, block_size=4, max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64, state_groups=3
)


def request(number: int, prompt: int, output: int) -> WorkloadRequest:
    return WorkloadRequest(
        request_id=f"r{number}", arrival_s=0.0, prompt_tokens=prompt, output_tokens=output, max_tokens=output
    )


def serve_one(config):
    """Serve a request of 20 tokens and 6 answered ones; return the engine and the blocks of each step."""
    engine = VllmStepEngine(config, PROFILE, Controller(resolve("preempt-evict")))
    engine.submit(SimRequest(request(0, 20, 6), config.model_len))
    held = []
    while not engine.idle:
        engine.step()
        held.append(engine.used_blocks_in_step)
    return engine, held


def test_blocks_of_one_request_step_by_step():
    """A row for every four positions; a block of the window goes when the next position does not see it."""
    engine, held = serve_one(WINDOWED)
    # 16 positions take 4 rows of two. Then 9 of them are out of sight of the 17th, which frees two blocks,
    # and positions 17 to 20 take a fifth row. The 21st takes a sixth and frees a third block. When 23 are
    # computed, 16 are out of sight, and a fourth block goes. The 25th takes a seventh row.
    assert held == [8, 10 - 2, 12 - 3, 12 - 3, 12 - 3, 12 - 4, 14 - 4]
    assert engine.free_blocks == WINDOWED.usable_blocks


def test_what_a_sequence_holds_at_most():
    """A step of 16 tokens beside a window of 8 touches 23 positions: six blocks, and one more."""
    assert WINDOWED.window_blocks == (7,)
    blocks = GroupBlocks(WINDOWED)
    assert blocks.count_most(12) == 3 + 3
    assert blocks.count_most(64) == 16 + 7


@pytest.mark.parametrize("config", [WINDOWED, STATES])
@pytest.mark.parametrize("policy", ["preempt-evict", "fair", "fast", "largest-first"])
def test_victims_and_blocks_add_up(policy, config):
    controller = Controller(resolve(policy), time_budget_s=None)
    engine = VllmStepEngine(config, PROFILE, controller)
    for number in range(12):
        engine.submit(SimRequest(request(number, 9 + number, 30), config.model_len))
    while not engine.idle:
        engine.step()
        held = sum(each.num_held_blocks for each in engine.running)
        assert engine.free_blocks == config.usable_blocks - held >= 0
    counters = controller.counters
    assert counters.completions == 12
    assert counters.failures == 0
    chosen = counters.preemptions_by_engine if policy == "preempt-evict" else counters.preemptions_by_policy
    assert chosen == engine.num_preemptions > 0


def test_the_longest_sequence_is_what_the_memory_holds():
    """29 blocks: 22 of full attention beside 7 of the window."""
    engine = EngineConfig(30, block_size=4, max_num_batched_tokens=16, sliding_windows=(8,))
    assert engine.model_len == 22 * 4
    # 11 rows of three blocks need 33, and 9 rows 27 of the 29.
    engine = EngineConfig(30, block_size=4, max_num_batched_tokens=64, sliding_windows=(8, 8))
    assert engine.model_len == 9 * 4


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_state_takes_one_block_and_keeps_it(asynchronous):
    """Three states beside a block of full attention for every four positions (rule 25)."""
    config = replace(STATES, async_scheduling=asynchronous)
    engine, held = serve_one(config)
    assert held[:7] == [3 + 4, 3 + 5, 3 + 6, 3 + 6, 3 + 6, 3 + 6, 3 + 7]
    assert engine.free_blocks == config.usable_blocks
    assert engine.blocks_per_growth == 1
    assert GroupBlocks(STATES).count_most(64) == 3 + 16
    # Beside three states the memory has 26 blocks for full attention.
    assert replace(STATES, max_model_len=None).model_len == 26 * 4


@pytest.mark.parametrize("config", [WINDOWED, STATES])
def test_groups_run_on_the_reference_alone(config):
    requests = [request(number, 10, 10) for number in range(4)]
    results = [
        simulate(requests, resolve("fair"), config, PROFILE, backend=backend)
        for backend in ("auto", "python")
    ]
    assert results[0].records == results[1].records
    with pytest.raises(ValueError, match="none with sliding windows or states"):
        simulate(requests, resolve("fair"), config, PROFILE, backend="compiled")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sliding_windows": [8]}, r"sliding_windows must be a tuple of integers >= 1, got \[8\]"),
        ({"sliding_windows": (8, 0)}, r"sliding_windows must be a tuple of integers >= 1, got \(8, 0\)"),
        ({"sliding_windows": (8,), "enable_prefix_caching": True}, "together with enable_prefix_caching"),
        ({"sliding_windows": (8,), "async_scheduling": True}, "together with async_scheduling"),
        ({"state_groups": 1, "enable_prefix_caching": True}, "state_groups are not simulated together with"),
        ({"state_groups": -1}, "state_groups must be an integer >= 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        EngineConfig(100, **options)
