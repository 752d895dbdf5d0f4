"""Run in a process of its own: real CPU engines, one after the other, each under several policies.

    python -m tests.vllm.engine_child MODEL '{"name": {"asynchronous": true, ...}, ...}' REPORT

Every engine serves the same requests once for each named policy; "" switches the adapter off. With
`"attach": false` an engine is vLLM alone and the only run is its own. The report is JSON.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bidkv.adapters.vllm.plugin import register, unregister
from bidkv.control import DEFAULT_TIME_BUDGET_S

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

VOCABULARY = 1000


def requests(count: int, *, shared_prefix: int) -> list[tuple[list[int], int, int]]:
    """Seeded (prompt, output length, priority); every other prompt begins with the shared prefix."""
    rng = random.Random(5)
    prefix = [rng.randrange(VOCABULARY) for _ in range(shared_prefix)]
    made = []
    for number in range(count):
        own = [rng.randrange(VOCABULARY) for _ in range(rng.randint(30, 220))]
        made.append(((prefix if number % 2 else []) + own, rng.randint(40, 150), rng.randint(0, 2)))
    return made


@contextmanager
def forced_async_scheduling(wanted: bool) -> Iterator[None]:
    """VLLM switches it off on a CPU, where it gains nothing; the engine supports it all the same."""
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config

    def forced(vllm_config: Any) -> None:
        original(vllm_config)
        vllm_config.scheduler_config.async_scheduling = wanted

    with patch.object(CpuPlatform, "check_and_update_config", staticmethod(forced)):
        yield


def build(model: str, options: dict[str, Any]) -> Any:
    """The engine: tight memory, CPU attention's block size."""
    from vllm import LLM

    return LLM(
        model=model,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        gpu_memory_utilization=0.1,
        block_size=32,
        max_model_len=1024,
        max_num_batched_tokens=options.get("budget", 256),
        max_num_seqs=16,
        num_gpu_blocks_override=options["num_blocks"],
        enable_prefix_caching=options.get("prefix_caching", False),
        scheduling_policy=options.get("scheduling_policy", "fcfs"),
        disable_log_stats=True,
    )


def serve(llm: Any, options: dict[str, Any]) -> list[list[int]]:
    """Serve everything at once; returns the output tokens of each request."""
    from vllm import SamplingParams

    made = requests(options["count"], shared_prefix=options.get("shared_prefix", 0))
    results = llm.generate(
        [{"prompt_token_ids": prompt} for prompt, _, _ in made],
        [
            SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False)
            for _, output, _ in made
        ],
        use_tqdm=False,
        priority=[p for _, _, p in made] if options.get("scheduling_policy") == "priority" else None,
    )
    return [list(result.outputs[0].token_ids) for result in results]


def scheduler_of(llm: Any) -> Any:
    """The scheduler of an engine in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


def run(llm: Any, options: dict[str, Any], policy: str) -> dict[str, Any]:
    """One run under one policy; what the controller counted in it, and what the engine really preempted."""
    from tests import faulty_policies as faults

    scheduler = scheduler_of(llm)
    controller = scheduler.bidkv.controller
    # Only the policy that sleeps is to overrun its time budget, however busy this machine is.
    controller._time_budget_s = DEFAULT_TIME_BUDGET_S if policy == "sleeps" else 30.0
    if policy:
        controller.switch(
            faults.FAULTS[policy]() if policy in faults.FAULTS else scheduler.bidkv.resolve(policy)
        )
    else:
        controller.disable()
    before = controller.counters.as_dict()
    preempted: list[str] = []
    named: list[str] = []
    original = scheduler._preempt_request

    def watch(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        original(request, *args, **kwargs)

    scheduler._preempt_request = watch
    scheduler.bidkv.glue.on_victims = lambda victims: named.extend(victim.request_id for victim in victims)
    try:
        outputs = serve(llm, options)
    finally:
        del scheduler._preempt_request
        scheduler.bidkv.glue.on_victims = None
    after = controller.counters.as_dict()
    pool = scheduler.kv_cache_manager.block_pool
    engine = scheduler.bidkv.glue.engine
    engine.begin_step()
    return {
        "outputs": outputs,
        "preempted": preempted,
        "named": named,
        "counters": {name: after[name] - before[name] for name in after},
        "active": controller.active,
        "breaker": controller.breaker.reason,
        "blocks_lost": pool.num_gpu_blocks - 1 - pool.get_num_free_blocks(),
        "views_kept": len(engine.views),
        "running": len(scheduler.running),
        "waiting": scheduler.get_request_counts()[1],
    }


def report_on(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """Build one engine, run every policy of its options on it, take it down."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    attach = options.get("attach", True)
    strategy = {"BIDKV_STRATEGY": "preempt-evict"} if attach else {}
    with patch.dict(os.environ, strategy), forced_async_scheduling(options.get("asynchronous", False)):
        if attach:
            # What vLLM does with the entry point, which it loads once in a process.
            register()
        llm = build(model, options)
    unregister()
    report: dict[str, Any] = {"scheduler": type(scheduler_of(llm)).__name__}
    if attach:
        report["runs"] = {policy: run(llm, options, policy) for policy in options["policies"]}
    else:
        report["outputs"] = {
            str(prefix): serve(llm, options | {"shared_prefix": prefix})
            for prefix in options["shared_prefixes"]
        }
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return report


def main() -> None:
    """Run every engine of the options."""
    model, engines, path = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    path.write_text(json.dumps({name: report_on(model, options) for name, options in engines.items()}))


if __name__ == "__main__":
    main()
