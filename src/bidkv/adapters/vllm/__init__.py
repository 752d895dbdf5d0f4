"""Real vLLM v1: `--scheduler-cls bidkv.adapters.vllm.BidKVAsyncScheduler`, or the plugin and BIDKV_STRATEGY.

Importing this does not import vLLM; the two scheduler classes are made when first asked for.
"""

from typing import Any

__all__ = ["BidKVAsyncScheduler", "BidKVScheduler"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bidkv.adapters.vllm.schedulers import scheduler_class

        return scheduler_class(asynchronous=name == "BidKVAsyncScheduler")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
