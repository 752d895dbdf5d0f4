"""The five named strategies and the registry."""

from bidkv.baselines.base import BaselineContext, BaselineStrategy, CompressionAction, RequestState
from bidkv.baselines.bidkv_strategy import BidKVStrategy, bidkv_disruption, bidkv_utility
from bidkv.baselines.largest_first import LargestFirstStrategy, compressible_tokens
from bidkv.baselines.preempt import ENGINE_ORDER, PreemptEvictSJFStrategy, PreemptEvictStrategy
from bidkv.baselines.registry import BaselineRegistry
from bidkv.baselines.static_random import StaticRandomStrategy

__all__ = [
    "ENGINE_ORDER",
    "BaselineContext",
    "BaselineRegistry",
    "BaselineStrategy",
    "BidKVStrategy",
    "CompressionAction",
    "LargestFirstStrategy",
    "PreemptEvictSJFStrategy",
    "PreemptEvictStrategy",
    "RequestState",
    "StaticRandomStrategy",
    "bidkv_disruption",
    "bidkv_utility",
    "compressible_tokens",
]
