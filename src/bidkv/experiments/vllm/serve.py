"""`python -m bidkv.experiments.vllm.serve --model ...`: vLLM's OpenAI server, every flag passed through.

The strategy comes from BIDKV_STRATEGY (unset: the server as it is). On a CPU build of vLLM, whose `vllm`
command does not start, this does.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys

SERVER = "vllm.entrypoints.openai.api_server"


def main() -> None:
    """Check the environment, then become vLLM's server.

    The plugin is registered here as well as by vLLM itself, so that a strategy that does not exist stops the
    command before anything is loaded.
    """
    if importlib.util.find_spec("vllm") is None:
        sys.exit("vLLM is not installed in this environment; see docs/guide/vllm.md")
    from bidkv.adapters.vllm.plugin import register

    try:
        register()
    except ValueError as error:
        sys.exit(f"bidkv: {error}")
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
