"""Capacity planning: what a replica sustains, how many it takes, what limits them, what more would buy."""

from bidkv.planning.capacity import CapacityPlan, Promise, Purchase, make_plan
from bidkv.planning.check import SHARES, Check, check
from bidkv.planning.demand import Demand
from bidkv.planning.fleet import FleetAnswer, FleetCheck, FleetVerification, verify_fleet

__all__ = [
    "SHARES",
    "CapacityPlan",
    "Check",
    "Demand",
    "FleetAnswer",
    "FleetCheck",
    "FleetVerification",
    "Promise",
    "Purchase",
    "check",
    "make_plan",
    "verify_fleet",
]
