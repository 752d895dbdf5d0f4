"""Policies: who is preempted, who enters, how much stays free; guards; and the resolver from a name."""

from bidkv.policy.catalog import (
    PolicySpecError,
    available,
    options_of,
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
    "options_of",
    "register",
    "resolve",
    "resolve_all",
]
