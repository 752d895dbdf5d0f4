"""`python -m bidkv.experiments.vllm.runner`: strategies compared on real vLLM, or `--engine sim`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bidkv.experiments.driver import Driver
from bidkv.experiments.options import EngineKind, EngineOption, stated
from bidkv.experiments.runner import run_main
from bidkv.experiments.store import Store
from bidkv.experiments.vllm.server import vllm_driver
from bidkv.simulator import EngineConfig

OPTIONS = (
    EngineOption("--model", str, "a folder with config.json and weights, or a name in the local cache"),
    EngineOption("--gpu-memory-utilization", float, "share of the GPU's memory vLLM may take"),
    EngineOption("--num-gpu-blocks-override", int, "KV blocks, the null block included"),
    EngineOption("--max-num-seqs", int, "most requests running at once"),
    EngineOption("--max-num-batched-tokens", int, "token budget of a step"),
    EngineOption("--max-model-len", int, "longest prompt + output"),
    EngineOption(
        "--block-size", int, "tokens of a KV block (on a CPU, unless stated, what its backend needs)"
    ),
)


def simulated(given: argparse.Namespace) -> EngineConfig:
    """Read the options a simulated vLLM has too; the others mean nothing there."""
    return EngineConfig(
        num_gpu_blocks=stated(given.num_gpu_blocks_override, 600),
        block_size=stated(given.block_size, 16),
        max_num_seqs=stated(given.max_num_seqs, 32),
        max_num_batched_tokens=stated(given.max_num_batched_tokens, 2048),
        max_model_len=given.max_model_len,
    )


VLLM = EngineKind("bidkv.experiments.vllm.runner", "vllm", OPTIONS, simulated)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_main(VLLM, _driver, argv)


def _driver(given: argparse.Namespace, store: Store, say: Callable[[str], None]) -> Driver:
    return vllm_driver(given, OPTIONS, store.logs, say)


if __name__ == "__main__":
    sys.exit(main())
