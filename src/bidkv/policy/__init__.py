"""Policies: which request is preempted, which enters and how much memory stays free; names resolved."""

from bidkv.policy.catalog import (
    PolicySpecError,
    available,
    policy_options,
    register,
    resolve,
    resolve_all,
)
from bidkv.policy.parts.ordering import WaitingHeap, least

__all__ = [
    "PolicySpecError",
    "WaitingHeap",
    "available",
    "least",
    "policy_options",
    "register",
    "resolve",
    "resolve_all",
]
