"""How a real SGLang server is started for an experiment, and what a CPU needs for it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from bidkv.experiments.command_line import server_driver, server_words
from bidkv.experiments.driver import DriverError, EngineFacts
from bidkv.experiments.options import EngineOption
from bidkv.experiments.scrape import Reading, get_text
from bidkv.experiments.server_driver import ServerDriver

RESERVED_NEW_TOKENS = 4
"""Output tokens for which SGLang reserves memory at a request's admission, in experiments.

It reserves the whole stated length otherwise, experiments state exact lengths, and nothing would ever be
retracted.
"""

_CPU_WORDS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
    "--dtype", "float32", "--disable-cuda-graph", "--grammar-backend", "none",
)  # fmt: skip
_CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}


def sglang_driver(
    given: argparse.Namespace, options: Sequence[EngineOption], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's command line.

    Raises:
        DriverError: SGLang is not installed.
    """
    try:
        installed = f"sglang {version('sglang')}"
    except PackageNotFoundError:
        raise DriverError(
            f"SGLang is not installed beside {sys.executable}: run this with the Python that has it, or with "
            "--engine sim"
        ) from None
    words = server_words(given, options, "--model-path", say)
    environment = {
        "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": str(RESERVED_NEW_TOKENS),
    }
    if find_spec("sgl_kernel") is None:
        # The GPU's kernels are a package of their own; where it is missing only a CPU is left.
        words += _CPU_WORDS
        environment |= _CPU_ENVIRONMENT
        say(f"{installed} without GPU kernels: {' '.join(_CPU_WORDS)}, one thread for each operator")
    facts = partial(_facts, installed=installed)
    return server_driver(given, "sglang", words, environment, facts, logs, say)


def _facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server what it is."""
    if not reading.count("hooks_in_place"):
        raise DriverError("the hooks into SGLang are not in place; its log says why")
    info = json.loads(get_text(f"{url}/server_info"))
    pages, page_size = reading.count("total_blocks"), int(info["page_size"])
    most = info.get("max_req_input_len") or info.get("context_length")
    notes = {
        "engine": installed,
        "model": info.get("model_path"),
        "usable_blocks": pages,
        "block_size": page_size,
        "max_model_len": most,
    }
    return EngineFacts(pages, page_size, most, notes)
