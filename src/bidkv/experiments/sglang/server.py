"""How a real SGLang server is started for an experiment, and what a CPU needs for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bidkv.experiments.collector import Reading, get_text
from bidkv.experiments.driver import DriverError, EngineFacts
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_driver import ServerDriver
from bidkv.experiments.server_launch import make_server_driver, server_arguments

RESERVED_NEW_TOKENS = 4
"""Output tokens for which SGLang reserves memory at a request's admission, in experiments.

Otherwise SGLang reserves the whole stated length; experiments state exact lengths, so nothing would ever be
retracted.
"""

_CPU_ARGUMENTS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
    "--dtype", "float32", "--disable-cuda-graph", "--grammar-backend", "none",
)  # fmt: skip
_CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}


def make_sglang_driver(
    given: RunnerOptions, options: Mapping[str, Any], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's options; `options` are the engine's own.

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
    arguments = server_arguments(options, "--model-path", say)
    environment = {"SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": str(RESERVED_NEW_TOKENS)}
    if find_spec("sgl_kernel") is None:
        # The GPU's kernels are a package of their own; without it only a CPU is left.
        arguments += _CPU_ARGUMENTS
        environment |= _CPU_ENVIRONMENT
        say(f"{installed} without GPU kernels: {' '.join(_CPU_ARGUMENTS)}, one thread for each operator")
    facts = partial(_read_facts, installed=installed)
    return make_server_driver(given, "sglang", options["model"], arguments, environment, facts, logs, say)


def _read_facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server for its facts."""
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
