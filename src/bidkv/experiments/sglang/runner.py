"""`python -m bidkv.experiments.sglang.runner`: strategies compared on real SGLang, or `--engine sim`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bidkv.experiments.driver import Driver
from bidkv.experiments.options import EngineKind, EngineOption, stated
from bidkv.experiments.runner import run_main
from bidkv.experiments.sglang.server import RESERVED_NEW_TOKENS, sglang_driver
from bidkv.experiments.store import Store
from bidkv.simulator import SglangConfig

OPTIONS = (
    EngineOption("--model", str, "a folder with config.json and weights, or a name in the local cache"),
    EngineOption("--mem-fraction-static", float, "share of the memory for weights and KV cache"),
    EngineOption("--max-total-tokens", int, "tokens the KV cache holds"),
    EngineOption("--max-running-requests", int, "most requests running at once"),
    EngineOption("--chunked-prefill-size", int, "most prompt tokens of one step"),
    EngineOption("--context-length", int, "longest prompt + output"),
    EngineOption("--page-size", int, "tokens of a KV page"),
)


def simulated(given: argparse.Namespace) -> SglangConfig:
    """Read the options a simulated SGLang has too; the others mean nothing there."""
    return SglangConfig(
        max_total_tokens=stated(given.max_total_tokens, 9584),
        page_size=stated(given.page_size, 1),
        max_running_requests=stated(given.max_running_requests, 32),
        chunked_prefill_size=stated(given.chunked_prefill_size, 2048),
        context_length=given.context_length,
        clip_max_new_tokens=RESERVED_NEW_TOKENS,
    )


SGLANG = EngineKind("bidkv.experiments.sglang.runner", "sglang", OPTIONS, simulated)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_main(SGLANG, _driver, argv)


def _driver(given: argparse.Namespace, store: Store, say: Callable[[str], None]) -> Driver:
    return sglang_driver(given, OPTIONS, store.logs, say)


if __name__ == "__main__":
    sys.exit(main())
