"""SGLang's server with the policy of BIDKV_STRATEGY, and what it needs on a machine without a GPU.

SGLang swallows what a plugin raises and would serve without the policy; here a wrong name is an error before
anything is loaded. Ctrl-C stops the server and its processes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence

from bidkv.adapters.environment import METRICS_PORT, STRATEGY, read_environment
from bidkv.adapters.server_setup import ServerSetup, require_installed
from bidkv.policy import resolve

PACKAGES = ("sglang",)
"""Distributions that hold SGLang."""

RESERVED_NEW_TOKENS = 4
"""Output tokens for which SGLang reserves memory at a request's admission, in experiments.

By default it reserves the whole stated length. Experiments state exact lengths, so nothing would ever be
retracted.
"""

_CPU_ARGUMENTS = (
    "--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch",
    "--dtype", "float32", "--disable-cuda-graph", "--grammar-backend", "none",
)  # fmt: skip
_CPU_ENVIRONMENT = {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}


def make_server_setup() -> ServerSetup:
    """Return what an SGLang server needs on this machine.

    Raises:
        LaunchError: SGLang is not installed.
    """
    installed = require_installed("SGLang", PACKAGES)
    environment = {"SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": str(RESERVED_NEW_TOKENS)}
    # The GPU's kernels are a package of their own; without it only a CPU is left.
    if importlib.util.find_spec("sgl_kernel") is not None:
        return ServerSetup(installed, (), environment, ())
    note = f"{installed} without GPU kernels: {' '.join(_CPU_ARGUMENTS)}, one thread for each operator"
    return ServerSetup(installed, _CPU_ARGUMENTS, environment | _CPU_ENVIRONMENT, (note,), True)


def read_server_info(page: str) -> tuple[str, int, int]:
    """Return the model's path, the tokens of a page and the longest prompt from /server_info."""
    info = json.loads(page)
    longest = info.get("max_req_input_len") or info.get("context_length")
    return str(info.get("model_path")), int(info["page_size"]), int(longest)


def find_environment_problem() -> str | None:
    """Return what is wrong with the environment variables, or None."""
    try:
        environment = read_environment()
        if environment.strategy is not None and resolve(environment.strategy).clairvoyant:
            return (
                f"{STRATEGY}={environment.strategy} reads true output lengths: it runs in the simulator only"
            )
    except ValueError as error:
        return str(error)
    if environment.metrics_port is not None and importlib.util.find_spec("prometheus_client") is None:
        return f"{METRICS_PORT} is set but prometheus-client is not installed: pip install 'bidkv[sglang]'"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; return an exit status: 2 when nothing could be started."""
    problem = find_environment_problem()
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    try:
        from sglang.launch_server import run_server
        from sglang.srt.plugins import load_plugins
        from sglang.srt.server_args import prepare_server_args
        from sglang.srt.utils import kill_process_tree
    except ImportError as error:
        print(f"error: SGLang cannot be imported ({error}); install sglang 0.5.23", file=sys.stderr)
        return 2
    if read_environment().strategy is None:
        print(f"{STRATEGY} is not set: SGLang serves by its own rules", file=sys.stderr)
    load_plugins()
    try:
        run_server(prepare_server_args(list(sys.argv[1:] if arguments is None else arguments)))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)
    return 0
