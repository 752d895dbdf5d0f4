"""Start the real SGLang server with the policy of BIDKV_STRATEGY; every flag is SGLang's own.

    BIDKV_STRATEGY=bidkv python -m bidkv.experiments.sglang.serve --model-path NAME_OR_DIR --port 30000

SGLang swallows what a plugin raises and would serve without the policy; here a wrong name is an error before
anything is loaded. Ctrl-C stops the server and its processes.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from bidkv.adapters.environment import METRICS_PORT, STRATEGY, read_environment
from bidkv.policy import resolve


def check_environment() -> str | None:
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
    problem = check_environment()
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


if __name__ == "__main__":
    sys.exit(main())
