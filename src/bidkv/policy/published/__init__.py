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
from bidkv.policy.published.session_clairvoyant import ClairvoyantSessions
from bidkv.policy.published.session_orders import LongestPrefixFirst, SessionFcfs
from bidkv.policy.published.session_programs import AgentCongestion, ProgramPausing
from bidkv.policy.published.session_retention import KvTtl, ReusePrediction
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

SESSION_POLICIES: tuple[type[Policy], ...] = (
    LongestPrefixFirst,
    SessionFcfs,
    KvTtl,
    ProgramPausing,
    AgentCongestion,
    ReusePrediction,
    ClairvoyantSessions,
)
"""Published rules that know sessions, and the bound that knows every gap."""

__all__ = [
    "RULE_POLICIES",
    "SESSION_POLICIES",
    "AgentCongestion",
    "ClairvoyantSessions",
    "CostAwareVictim",
    "HighestResponseRatioNext",
    "KvTtl",
    "LeastComputedFirst",
    "LongestPrefixFirst",
    "MemoryConstrainedShortestFirst",
    "MostRemaining",
    "PastFuture",
    "PeakGate",
    "Priority",
    "ProgramPausing",
    "ReusePrediction",
    "SessionFcfs",
    "SmallestVolumeFirst",
    "Watermark",
]
