"""`python -m bidkv.experiments.sglang.runner`: strategies compared on real SGLang, or `--engine sim`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from bidkv.experiments.runner.driver import Driver
from bidkv.experiments.runner.main import run_main
from bidkv.experiments.runner.options import EngineOption
from bidkv.experiments.runner.store import Store
from bidkv.experiments.sglang.server import sglang_driver

OPTIONS = (
    EngineOption("--model", str, "a folder with config.json and weights, or a name in the local cache"),
    EngineOption("--mem-fraction-static", float, "share of the memory for weights and KV cache"),
    EngineOption("--max-total-tokens", int, "tokens the KV cache holds"),
    EngineOption("--max-running-requests", int, "most requests running at once"),
    EngineOption("--chunked-prefill-size", int, "most prompt tokens of one step"),
    EngineOption("--context-length", int, "longest prompt + output"),
    EngineOption("--page-size", int, "tokens of a KV page"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    return run_main("bidkv.experiments.sglang.runner", "sglang", OPTIONS, _driver, argv)


def _driver(given: argparse.Namespace, store: Store, say: Callable[[str], None]) -> Driver:
    return sglang_driver(given, OPTIONS, store.logs, say)


if __name__ == "__main__":
    sys.exit(main())
