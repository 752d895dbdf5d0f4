"""The simulator in SGLang's way against the real scheduler: the same batches and retractions, every step."""

import random

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from modelfree import ModelFreeScheduler, make_req
from sglang.srt.managers import schedule_policy
from tiny_model import VOCABULARY

from bidkv.control import Controller
from bidkv.policy import resolve
from bidkv.profiles import load_profile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator import SimRequest
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.sglang.engine import SglangStepEngine
from workloads import attach

pytestmark = pytest.mark.sglang

CLIP = 8
WHAT = ("batches", "retractions", "ratios", "aborted")


def _workload(seed: int) -> tuple[SglangConfig, list[tuple[int, WorkloadRequest]]]:
    """Options and requests, each with the step in which it arrives."""
    rng = random.Random(seed)
    page_size = rng.choice([1, 1, 4, 16])
    pool = rng.choice([160, 320, 640]) * (1 if page_size < 16 else 4)
    config = SglangConfig(
        max_total_tokens=pool,
        page_size=page_size,
        max_running_requests=rng.choice([4, 8, 16]),
        chunked_prefill_size=rng.choice([None, 16, 64]),
        max_prefill_tokens=rng.choice([64, 16384]),
        context_length=2048,
        schedule_conservativeness=0.1,
        retract_decode_steps=1,
        clip_max_new_tokens=CLIP,
    )
    step = 0
    requests = []
    for number in range(rng.choice([15, 30, 60])):
        step += rng.choice([0, 0, 1, 5, 40])
        # Some users set no cap to speak of, and some prompts nearly fill the pool.
        cap = rng.choice((rng.randrange(2, pool // 2), rng.randrange(2, pool // 2), 2 * pool))
        output = max(1, int(min(cap, pool // 2) * rng.uniform(0.1, 1.0)))
        prompt = rng.randrange(1, pool // 4 if rng.random() < 0.9 else config.longest_prompt + 1)
        requests.append((step, WorkloadRequest(f"r{number}", step * 0.01, prompt, output, max_tokens=cap)))
    return config, requests


def _real(config: SglangConfig, requests, hooks, policy, tree="disabled"):
    scheduler = ModelFreeScheduler(
        tokens=config.max_total_tokens,
        tree=tree,
        page_size=config.page_size,
        max_running=config.max_running_requests,
        chunked_prefill_size=config.chunked_prefill_size,
        max_prefill_tokens=config.max_prefill_tokens,
    )
    hooks.glue = None
    if policy is not None:
        attach(hooks, scheduler, policy)
    retractions = []
    original = scheduler._add_request_to_queue

    def add(req, is_retracted=False):
        if is_retracted:
            retractions.append((scheduler.now, req.rid))
        original(req, is_retracted)

    scheduler._add_request_to_queue = add
    queue = list(requests)
    batches, ratios = [], []
    live = []
    while queue or not scheduler.idle():
        while queue and queue[0][0] <= scheduler.now:
            source = queue.pop(0)[1]
            own = random.Random(source.request_id)  # no two prompts share anything worth caching
            prompt = [own.randrange(3, VOCABULARY) for _ in range(source.prompt_tokens)]
            req = make_req(source.request_id, prompt, source.max_tokens, ignore_eos=False)
            req.stop_after = source.output_tokens
            live.append(req)
            scheduler.submit(req)
        batch = scheduler.step()
        ratios.append(scheduler.new_token_ratio_tracker.current)
        batches.append(None if batch is None else scheduler.step_log[-1][1])
    # The loop turns once more, without a batch, before it sees that the last request has finished.
    return batches[:-1], retractions, ratios[:-1], list(scheduler.aborted)


def _simulated(config: SglangConfig, requests, policy):
    controller = Controller(policy, time_budget_s=None)
    engine = SglangStepEngine(config, load_profile("h100-llama3.1-8b"), controller)
    queue = list(requests)
    batches, retractions, ratios, aborted = [], [], [], []
    now = 0
    while queue or not engine.idle:
        while queue and queue[0][0] <= now:
            engine.submit(SimRequest(queue.pop(0)[1], config.model_len))
        if engine.idle:
            engine.wait_until(engine.now_s + 1e-3)  # an idle turn of the loop
            ratios.append(config.initial_ratio)
            batches.append(None)
        else:
            engine.step()
            ratios.append(engine.new_token_ratio)
            batches.append(tuple(request.request_id for request, _ in engine.scheduled) or None)
            retractions += [(now, request.request_id) for request in engine.preempted]
            aborted += [request.request_id for request in engine.aborted]
        now += 1

    return batches, retractions, ratios, aborted


class _FixedReserve(Policy):
    """Keeps a share of the pool free and shuts the gate while many wait; needs no clock."""

    name = "fixed-reserve"

    def reserve_blocks(self, engine):
        return engine.num_blocks // 5

    def select_next(self, engine):
        return None if engine.num_waiting % 4 == 3 else engine.waiting()[-1]


POLICIES = {
    "length": lambda: resolve("preempt-evict"),
    "fixed-reserve": _FixedReserve,
    **{
        name: lambda name=name: resolve(name)
        for name in ("bidkv", "largest-first", "static-random", "preempt-evict-sjf", "sglang_default")
    },
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_batches_retractions_and_ratios_at_every_step(hooks, name):
    """No exceptions: every workload, every step, every ratio as a float is equal."""
    under_pressure = retractions = 0
    workloads = range(60) if name == "length" else range(10)
    for seed in workloads:
        config, requests = _workload(seed)
        real = _real(config, requests, hooks, None if name == "length" else POLICIES[name]())
        simulated = _simulated(config, requests, POLICIES[name]())
        for what, theirs, ours in zip(WHAT, real, simulated, strict=True):
            first = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), None)
            assert theirs == ours, f"workload {seed} ({config}): {what} differ first at {first}"
        under_pressure += bool(real[1])
        retractions += len(real[1])
    # A reserve is there to prevent what all others run into.
    share, each = (0.5, 1) if name == "fixed-reserve" else (0.8, 5)
    assert under_pressure >= share * len(workloads)
    assert retractions > each * len(workloads)


def test_with_the_prefix_cache_on_nearly_all_retractions_are_the_same(hooks):
    """The exception, counted: the tree may still hold a retracted prompt, which the simulator recomputes."""
    equal = total = 0
    for seed in range(25):
        config, requests = _workload(seed)
        _, real, _, _ = _real(config, requests, hooks, None, tree="unified-rust")
        _, simulated, _, _ = _simulated(config, requests, POLICIES["length"]())
        total += bool(real)
        equal += bool(real) and [rid for _, rid in real] == [rid for _, rid in simulated]
    print(f"equal retractions with the prefix cache on: {equal} of {total} workloads")
    assert total >= 20
    assert equal >= 0.8 * total


def test_the_clip_of_the_real_scheduler_is_the_simulated_one(hooks):
    assert schedule_policy.CLIP_MAX_NEW_TOKENS == CLIP
