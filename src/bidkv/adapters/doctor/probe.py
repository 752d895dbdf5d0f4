"""`python -m bidkv.adapters.doctor.probe ENGINE`: load an engine's plugins as it does, then look at the hook.

It runs in a process of its own, because engines take long to import, print, and may fail to import at all.
The policy comes from BIDKV_STRATEGY, as in a server. The answer is one line of JSON behind `ANSWER`.
"""

from __future__ import annotations

import json
import sys
import warnings

from bidkv.adapters.doctor.findings import ANSWER


def probe_vllm() -> tuple[bool, str]:
    """Let vLLM load its plugins and say which scheduler class it would make."""
    from vllm.config import SchedulerConfig
    from vllm.plugins import load_general_plugins

    from bidkv.adapters.vllm.schedulers import BidKVSchedulerMixin

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_general_plugins()
    scheduler = SchedulerConfig.default_factory().get_scheduler_cls()
    if issubclass(scheduler, BidKVSchedulerMixin):
        return True, f"vLLM would schedule with {scheduler.__module__}.{scheduler.__qualname__}"
    ours = [str(warning.message) for warning in caught if "bidkv" in str(warning.message)]
    return False, "; ".join([f"vLLM would schedule with its own {scheduler.__qualname__}", *ours])


def probe_sglang() -> tuple[bool, str]:
    """Let SGLang load its plugins and say which of this project's hooks are in place."""
    from sglang.srt.plugins import load_plugins

    from bidkv.adapters.sglang import plugin

    load_plugins()
    if plugin.current is None:
        return False, "SGLang did not run the plugin"
    missing = plugin.current.hooks.missing()
    if missing:
        return False, f"these hooks are not in place: {', '.join(missing)}"
    return True, f"all {len(plugin.current.hooks.targets)} hooks are in place"


def main() -> None:
    """Probe the engine named on the command line."""
    in_place, text = {"vllm": probe_vllm, "sglang": probe_sglang}[sys.argv[1]]()
    print(f"\n{ANSWER}{json.dumps({'in_place': in_place, 'text': text})}", flush=True)


if __name__ == "__main__":
    main()
