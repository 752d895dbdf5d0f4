"""Capacity planning: what a replica sustains, how many it takes, what limits them, what more would buy."""

from bidkv.experiments.plan.capacity import CapacityPlan, Promise, Purchase, make_plan
from bidkv.experiments.plan.check import SHARES, Check, check
from bidkv.experiments.plan.demand import Demand
from bidkv.experiments.plan.fleet import FleetAnswer, FleetCheck, FleetVerification, verify_fleet

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
