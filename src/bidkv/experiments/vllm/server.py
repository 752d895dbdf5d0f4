"""How a real vLLM server is started for an experiment, and what a CPU needs for it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bidkv.experiments.collector import Reading, get_text
from bidkv.experiments.driver import DriverError, EngineFacts
from bidkv.experiments.options import RunnerOptions
from bidkv.experiments.server_driver import ServerDriver
from bidkv.experiments.server_launch import make_server_driver, server_arguments

CPU_BLOCK_SIZE = 32
"""The only block size of vLLM's CPU attention."""

_CPU_ENVIRONMENT = {
    # Without these two an engine on a CPU is ten to twenty times slower.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def make_vllm_driver(
    given: RunnerOptions, options: Mapping[str, Any], logs: Path, say: Callable[[str], None]
) -> ServerDriver:
    """Return the driver for a runner's options; `options` are the engine's own.

    Raises:
        DriverError: vLLM is not installed, or cannot run with the options.
    """
    installed = _find_installed()
    arguments = server_arguments(options, "--model", say)
    environment = {"VLLM_NO_USAGE_STATS": "1"}
    if "cpu" in installed:
        environment |= _CPU_ENVIRONMENT
        block_size = options.get("block_size")
        if block_size not in (None, CPU_BLOCK_SIZE):
            raise DriverError(f"--block-size: vLLM on a CPU has {CPU_BLOCK_SIZE}, not {block_size}")
        if block_size is None:
            arguments += ["--block-size", str(CPU_BLOCK_SIZE)]
        arguments.append("--enforce-eager")
        say(
            f"vLLM for CPUs ({installed}): --block-size {CPU_BLOCK_SIZE}, --enforce-eager, one thread for "
            "each operator"
        )
    facts = partial(_read_facts, installed=installed)
    return make_server_driver(given, "vllm", options["model"], arguments, environment, facts, logs, say)


def _find_installed() -> str:
    """Return which vLLM is installed, as "vllm 0.24.0" or "vllm-cpu 0.32.0"."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    raise DriverError(
        f"vLLM is not installed beside {sys.executable}: run this with the Python that has it, or with "
        "--engine sim"
    )


def _read_facts(url: str, reading: Reading, installed: str) -> EngineFacts:
    """Ask a healthy server for its block size (its metrics) and its longest request (its list of models)."""
    block_size = re.search(r'vllm:cache_config_info\{[^}]*block_size="(\d+)"', get_text(f"{url}/metrics"))
    model = json.loads(get_text(f"{url}/v1/models"))["data"][0]
    blocks = reading.count("total_blocks")
    if block_size is None or not blocks:
        raise DriverError("the server does not say its block size and number of blocks")
    notes = {
        "engine": installed,
        "model": model["id"],
        "usable_blocks": blocks,
        "block_size": int(block_size[1]),
        "max_model_len": model["max_model_len"],
    }
    return EngineFacts(blocks, int(block_size[1]), model["max_model_len"], notes)
