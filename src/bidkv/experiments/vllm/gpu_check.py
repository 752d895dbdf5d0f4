"""Checks the adapter on a GPU in one process: victims under pressure, throughput without.

    PYTHONPATH=... python -m bidkv.experiments.vllm.gpu_check > gpu_check.json

Needs vLLM and nothing from a network: the model is a Llama-3.1-8B shape with dummy weights, which changes no
step time. The throughput comparison runs plain vLLM's own scheduler and the adapter's over the same worker,
in alternating pairs, so that nothing else differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bidkv.adapters.environment import STRATEGY

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1000,
    "torch_dtype": "float32",
}


class Engine:
    """One LLMEngine in this process, its worker, and the two schedulers that can drive it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from vllm import EngineArgs, LLMEngine, __version__

        folder = Path(tempfile.mkdtemp(prefix="bidkv-model-"))
        config = LLAMA_8B | (TINY if options.tiny else {})
        (folder / "config.json").write_text(json.dumps(config))
        self.version = __version__
        self.vocabulary = int(str(config["vocab_size"]))
        self.llm = LLMEngine.from_engine_args(
            EngineArgs(
                model=str(folder),
                load_format="dummy",
                skip_tokenizer_init=True,
                dtype=str(config["torch_dtype"]),
                max_model_len=options.max_model_len,
                num_gpu_blocks_override=options.num_gpu_blocks,
                max_num_seqs=options.max_num_seqs,
                max_num_batched_tokens=2048,
                block_size=options.block_size,
                enable_prefix_caching=False,
                async_scheduling=True,
                gpu_memory_utilization=options.gpu_memory_utilization,
                disable_log_stats=True,
                seed=0,
            )
        )
        self.core: Any = self.llm.engine_core.engine_core
        self.ours: Any = self.core.scheduler
        self.plain = self._plain_scheduler()

    def _plain_scheduler(self) -> Any:
        """VLLM's own scheduler for the same worker, with a block pool of its own over the same memory."""
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler

        ours = self.ours
        base = AsyncScheduler if isinstance(ours, AsyncScheduler) else Scheduler
        return base(
            vllm_config=ours.vllm_config,
            kv_cache_config=ours.kv_cache_config,
            structured_output_manager=ours.structured_output_manager,
            block_size=ours.block_size,
            log_stats=False,
        )

    def serve(self, scheduler: Any, lengths: list[tuple[int, int]], label: str) -> dict[str, Any]:
        """Serve (prompt, output) lengths queued at once under one scheduler; return what it took."""
        from vllm import SamplingParams

        self.core.scheduler = scheduler
        rng = random.Random(7)
        for number, (prompt, output) in enumerate(lengths):
            self.llm.add_request(
                f"{label}-{number}",
                {"prompt_token_ids": [rng.randrange(self.vocabulary) for _ in range(prompt)]},
                SamplingParams(temperature=0.0, max_tokens=output, ignore_eos=True, detokenize=False),
            )
        produced: dict[str, int] = {}
        steps = 0
        with timed(scheduler, "schedule") as scheduling:
            started = time.perf_counter()
            while self.llm.has_unfinished_requests():
                for result in self.llm.step():
                    produced[result.request_id] = len(result.outputs[0].token_ids)
                steps += 1
            seconds = time.perf_counter() - started
        # The worker is told of the last finished requests one step later; the other scheduler would not.
        while self.core.scheduler.has_requests():
            self.llm.step()
        tokens = sum(prompt + output for prompt, output in lengths)
        whole = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return {
            "requests": len(lengths),
            "complete": sum(produced[f"{label}-{i}"] == output for i, (_, output) in enumerate(lengths)),
            "steps": steps,
            "seconds": seconds,
            "tokens_per_s": tokens / seconds,
            "schedule_us_per_step": 1e6 * scheduling[0] / steps,
            "blocks_lost": scheduler.kv_cache_config.num_blocks - 1 - whole,
        }


@contextmanager
def timed(owner: Any, method: str) -> Iterator[list[float]]:
    """Adds up the seconds spent in one method of one object."""
    original = getattr(owner, method)
    total = [0.0]

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            total[0] += time.perf_counter() - started

    setattr(owner, method, wrapper)
    try:
        yield total
    finally:
        delattr(owner, method)


def check_pressure(engine: Engine, requests: int, longest: int) -> dict[str, Any]:
    """Serve far more than fits; every victim named must be the one preempted, and nothing may be lost."""
    scheduler = engine.ours
    named: list[str] = []
    preempted: list[str] = []
    mismatched_steps = 0
    original = scheduler._preempt_request

    def watch(request: Any, *args: Any, **kwargs: Any) -> None:
        preempted.append(request.request_id)
        original(request, *args, **kwargs)

    pending: list[str] = []

    def name(victims: Any) -> None:
        nonlocal mismatched_steps
        pending[:] = [victim.request_id for victim in victims]
        named.extend(pending)

    schedule = scheduler.schedule

    def compare(*args: Any, **kwargs: Any) -> Any:
        nonlocal mismatched_steps
        pending.clear()
        before = len(preempted)
        output = schedule(*args, **kwargs)
        mismatched_steps += preempted[before:] != pending[: len(preempted) - before]
        return output

    scheduler._preempt_request = watch
    scheduler.schedule = compare
    scheduler.bidkv.glue.on_victims = name
    rng = random.Random(11)
    lengths = [
        (rng.randint(longest // 6, longest), rng.randint(longest // 12, longest // 2))
        for _ in range(requests)
    ]
    try:
        figures = engine.serve(scheduler, lengths, "pressure")
    finally:
        for attribute in ("_preempt_request", "schedule"):
            scheduler.__dict__.pop(attribute, None)
        scheduler.bidkv.glue.on_victims = None
    controller = scheduler.bidkv.controller
    counters = controller.counters.as_dict()
    figures |= {
        "policy": str(controller.policy.name),
        "preempted": len(preempted),
        "named": len(named),
        "mismatched_steps": mismatched_steps,
        "counters": counters,
        "passed": bool(preempted)
        and mismatched_steps == 0
        and counters["preemptions_by_engine"] == counters["failures"] == 0
        and figures["complete"] == requests
        and figures["blocks_lost"] == 0,
    }
    return figures


def compare_throughput(engine: Engine, pairs: int, requests: int, prompt: int, output: int) -> dict[str, Any]:
    """Plain vLLM against the adapter without pressure, in pairs whose order alternates."""
    lengths = [(prompt, output)] * requests
    for scheduler, label in ((engine.plain, "warm-plain"), (engine.ours, "warm-ours")):
        engine.serve(scheduler, lengths, label)
    before = engine.ours.bidkv.controller.counters.as_dict()
    runs: list[dict[str, Any]] = []
    for pair in range(pairs):
        order = ["plain", "ours"] if pair % 2 == 0 else ["ours", "plain"]
        figures = {kind: engine.serve(getattr(engine, kind), lengths, f"{kind}-{pair}") for kind in order}
        runs.append({kind: figures[kind] for kind in ("plain", "ours")})
    ratios = [run["ours"]["tokens_per_s"] / run["plain"]["tokens_per_s"] for run in runs]
    plain = [run["plain"]["tokens_per_s"] for run in runs]
    after = engine.ours.bidkv.controller.counters.as_dict()
    return {
        "pairs": runs,
        "ours_over_plain": ratios,
        "mean_ratio": statistics.mean(ratios),
        "stdev_of_ratio": statistics.stdev(ratios) if len(ratios) > 1 else None,
        "noise_of_plain": statistics.stdev(plain) / statistics.mean(plain) if len(plain) > 1 else None,
        "decisions": after["decisions"] - before["decisions"],
    }


def main() -> None:
    """Run both checks and print one JSON object; the exit status is 1 when the pressure check fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", default="lcf")
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--num-gpu-blocks", type=int, default=600)
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.6)
    parser.add_argument("--pressure-requests", type=int, default=120)
    parser.add_argument("--throughput-requests", type=int, default=256)
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model: tries this program itself on a CPU"
    )
    options = parser.parse_args()
    os.environ[STRATEGY] = options.strategy
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from bidkv.adapters.vllm.plugin import register

    register()
    engine = Engine(options)
    longest = 120 if options.tiny else 1200
    report = {
        "vllm": engine.version,
        "scheduler": type(engine.ours).__name__,
        "pressure": check_pressure(engine, options.pressure_requests, longest),
        # 32 sequences of 96 + 128 tokens take 14 blocks of 16 each: 448 of 600.
        "throughput": compare_throughput(engine, options.pairs, options.throughput_requests, 96, 128),
    }
    json.dump(report, sys.stdout, indent=2)
    print()
    sys.exit(0 if report["pressure"]["passed"] else 1)


if __name__ == "__main__":
    main()
