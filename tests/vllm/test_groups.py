"""Models with several groups of KV cache: named victims are the preempted, in the policy's order."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from tests.vllm.harness import AsyncScheduler, Scheduler, run_case
from tests.vllm.kv_groups import BLOCK, KINDS, grouped_case, mamba, sliding
from tests.vllm.lagged import lagged_case, serve_lagged, simulate_lagged
from tests.vllm.ours import build_ours, run_ours
from tests.vllm.simulated import simulate_case

from bidkv.adapters.vllm.engine_view import VllmEngineView
from bidkv.adapters.vllm.groups import CacheGroup, UnknownGroupError, read_groups
from bidkv.policy import resolve

MODELS = [
    (kind, caching) for kind in KINDS for caching in (False, True) if caching or "everywhere" not in kind
]


@pytest.mark.parametrize(("kind", "prefix_caching"), MODELS)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_who_is_named_is_preempted(kind, prefix_caching, base, campaign, note_figures):
    """Each group's demand is what its manager takes less what it gives back, and no more."""
    preemptions = spared = 0
    is_rare = "everywhere" in kind  # a case there has some five preemptions, too few to tell a share from
    for seed in range(30 if campaign else 8 if is_rare else 2):
        for policy in ("lcf", "fast") if campaign or is_rare else (("lcf", "fast")[seed % 2],):
            case, specs = grouped_case(seed, kind, prefix_caching=prefix_caching)
            named: dict[int, tuple[str, ...]] = {}

            def watch(scheduler, named=named):
                def write(victims):
                    named[scheduler.current_step] = tuple(victim.request_id for victim in victims)

                scheduler.bidkv.glue.on_victims = write

            steps, scheduler = run_ours(case, policy, base, engine={"specs": specs}, prepare=watch)
            for number, step in enumerate(steps):
                chosen = named.get(number, ())
                assert step.preempted == chosen[: len(step.preempted)], f"seed {seed}, {policy}"
                spared += len(chosen) - len(step.preempted)
                preemptions += len(step.preempted)
            counters = scheduler.bidkv.controller.counters
            assert counters.preemptions_by_engine == counters.failures == 0
            assert counters.completions == len(case.requests)
    note_figures(
        f"{kind}{', prefix caching' if prefix_caching else ''}, {base.__name__}: {preemptions} preemptions, "
        f"all of victims named and in their order; {spared} more were named and spared"
    )
    assert preemptions >= 10
    assert spared <= max(1, 0.05 * preemptions)


@pytest.mark.parametrize(("kind", "prefix_caching"), MODELS)
def test_the_engines_own_order_is_kept_to_the_letter(kind, prefix_caching, campaign):
    """`preempt-evict` answers nothing: every step equals plain vLLM's."""
    for seed in range(2, 12 if campaign else 3):
        for base in (Scheduler, AsyncScheduler):
            case, specs = grouped_case(seed, kind, prefix_caching=prefix_caching)
            steps, scheduler = run_ours(case, "preempt-evict", base, engine={"specs": specs})
            alone = run_case(case, base, engine={"specs": specs})
            assert steps == alone, f"seed {seed}"
            assert scheduler.bidkv.controller.counters.failures == 0


SIMULATED: dict[str, dict[str, Any]] = {
    "sliding window": {"sliding_windows": (64,)},
    "sliding windows": {"sliding_windows": (48, 48, 48)},
    "state space": {"state_groups": 3},
    "state space first": {"state_groups": 2},
    "window and state": {"sliding_windows": (64,), "state_groups": 1},
}
"""Kind of model, and how the simulator is told of its groups."""

POLICIES = ("preempt-evict", "lcf", "fair", "fast", "largest-first")


@pytest.mark.parametrize("kind", SIMULATED)
def test_the_simulator_repeats_the_real_scheduler(kind, campaign, note_figures):
    """Rules 22 to 25 of the simulator: tokens and victims of every step are equal."""
    steps = preemptions = 0
    seeds = 60 if campaign else 1
    for seed in range(seeds):
        for policy in POLICIES if campaign else POLICIES[:3:2]:
            case, specs = grouped_case(seed, kind, prefix_caching=False)
            real, _ = run_ours(case, policy, engine={"specs": specs})
            simulated, _ = simulate_case(case, resolve(policy), **SIMULATED[kind])
            assert simulated == real, f"seed {seed}, {policy}"
            steps += len(real)
            preemptions += sum(len(step.preempted) for step in real)
    note_figures(
        f"{kind}: {seeds} workloads, {steps} steps and {preemptions} preemptions of the simulator as vLLM's"
    )
    assert preemptions >= 20


def test_the_simulator_repeats_a_model_with_states_under_asynchronous_scheduling(campaign, note_figures):
    """Only windows give blocks back, which a step in flight delays; states are simulated there, too."""
    steps = preemptions = 0
    seeds = 60 if campaign else 1
    for seed in range(seeds):
        lagged = lagged_case(seed)
        case, specs = grouped_case(seed, "state space", prefix_caching=False)
        case = replace(lagged, shape=replace(lagged.shape, num_blocks=case.shape.num_blocks))
        for policy in POLICIES if campaign else POLICIES[:3:2]:
            real = serve_lagged(case, policy, specs=specs)
            simulated = simulate_lagged(case, resolve(policy), state_groups=3)
            assert simulated == real, f"seed {seed}, {policy}"
            steps += len(real.steps)
            preemptions += sum(len(step.preempted) for step in real.steps)
    note_figures(
        f"state space, asynchronous: {seeds} workloads, {steps} steps and {preemptions} preemptions of the "
        f"simulator as vLLM's"
    )
    assert preemptions >= 20


@pytest.mark.parametrize(
    ("kind", "block_size", "growth"),
    [
        ("sliding window", BLOCK, 2),
        ("state space", BLOCK, 4),
        ("small blocks", 2 * BLOCK, 3),
        ("sliding window alone", BLOCK, 1),
    ],
)
def test_the_view_counts_blocks_of_the_group_that_grows(kind, block_size, growth):
    """vLLM's own block size is a common multiple of all groups', here the whole context for a state."""
    case, specs = grouped_case(0, kind, prefix_caching=False)
    engine = build_ours(case, "lcf", engine={"specs": specs}).bidkv.glue.engine
    assert engine.block_size == block_size
    assert engine.blocks_per_growth == growth


def test_the_demand_is_not_counted_while_memory_is_plentiful(monkeypatch):
    case, specs = grouped_case(0, "sliding windows", prefix_caching=False)
    case = replace(case, shape=replace(case.shape, num_blocks=100_000))
    asked: list[Any] = []
    monkeypatch.setattr(VllmEngineView, "block_demand", lambda view, excluded: asked.append(excluded))
    run_ours(case, "lcf", engine={"specs": specs})
    assert asked == []


def test_sessions_are_left_to_vllm(caplog):
    """Whatever the policy would keep, several groups are retained and reused in vLLM's own order."""
    case, specs = grouped_case(0, "sliding window", prefix_caching=True)
    with caplog.at_level("INFO", logger="bidkv"):
        _, scheduler = run_ours(case, "sessions", engine={"specs": specs})
    assert "sessions are left to vLLM's own prefix cache: the model has 2 groups of KV cache" in caplog.text
    engine, counters = scheduler.bidkv.glue.engine, scheduler.bidkv.controller.counters
    assert engine.sessions is engine.cache is None
    assert counters.session_drops == counters.failures == 0
    assert counters.completions == len(case.requests)


def test_a_manager_that_wants_to_know_more_is_refused():
    class Curious:
        block_size = BLOCK
        req_to_blocks: ClassVar[dict[str, list[Any]]] = {}

        def get_num_blocks_to_allocate(self, request_id: str, phase_of_the_moon: float) -> int:
            raise AssertionError("asked without being told")

    with pytest.raises(UnknownGroupError, match="Curious needs to know phase_of_the_moon"):
        CacheGroup(Curious())


def test_what_a_window_gives_back_is_counted_from_its_end():
    """Positions 0 to 95 are computed, 64 count: the next token needs 33 and later, so two blocks go."""
    case, _ = grouped_case(0, "sliding window alone", prefix_caching=False)
    scheduler = build_ours(case, "lcf", engine={"specs": [sliding(64)]})
    (group,) = read_groups(scheduler)
    pool = scheduler.kv_cache_manager.block_pool
    group.held["r"] = pool.get_new_blocks(6)
    request = SimpleNamespace(request_id="r", num_computed_tokens=96, num_in_flight_tokens=0)
    assert group.count_given_back(request) == 2
    assert group.count_freed("r") == 6
    request.num_in_flight_tokens = 16  # a step in flight still reads the second one
    assert group.count_given_back(request) == 1
    group.held["r"][0].ref_cnt = 2  # and somebody else the first
    assert group.count_given_back(request) == 0
    assert group.count_freed("r") == 5


def test_a_state_takes_one_block_and_keeps_it():
    case, _ = grouped_case(0, "state space", prefix_caching=False)
    specs = [mamba("none", case.shape.max_model_len)]
    (group,) = read_groups(build_ours(case, "lcf", engine={"specs": specs}))
    request = SimpleNamespace(
        request_id="r", num_computed_tokens=0, num_in_flight_tokens=0, num_prompt_tokens=90, num_tokens=90
    )
    assert group.count_missing(request, 90, 90) == 1
    assert not group.keeps_everything
