"""Policies: who is preempted, who enters, how much stays free; guards; and the resolver from a name."""

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
