"""Published rules as published, without a cap or tuning. Each docstring names the source.

vLLM's own rule is `preempt-evict` (:mod:`bidkv.policy.contract_strategies`), SGLang's is `sglang-default`
(:mod:`bidkv.policy.published.sglang_rules`).
"""

from bidkv.policy.published.admission import HighestResponseRatioNext, Priority, Watermark
from bidkv.policy.published.clairvoyant import (
    MemoryConstrainedShortestFirst,
    PeakGate,
    SmallestVolumeFirst,
)
from bidkv.policy.published.past_future import PastFuture
from bidkv.policy.published.victims import CostAwareVictim, LeastComputedFirst, MostRemaining
from bidkv.protocol.policy import Policy

RULE_POLICIES: tuple[type[Policy], ...] = (
    LeastComputedFirst,
    MostRemaining,
    CostAwareVictim,
    Priority,
    Watermark,
    HighestResponseRatioNext,
    PastFuture,
    PeakGate,
    MemoryConstrainedShortestFirst,
    SmallestVolumeFirst,
)

__all__ = [
    "RULE_POLICIES",
    "CostAwareVictim",
    "HighestResponseRatioNext",
    "LeastComputedFirst",
    "MemoryConstrainedShortestFirst",
    "MostRemaining",
    "PastFuture",
    "PeakGate",
    "Priority",
    "SmallestVolumeFirst",
    "Watermark",
]
