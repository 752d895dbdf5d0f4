"""Capacity planning: what a replica sustains, how many it takes, what limits them, what more would buy."""

from bidkv.planning.capacity import CapacityPlan, ReplicaOption, make_plan
from bidkv.planning.check import SHARES, RateCheck, check_rates
from bidkv.planning.demand import Demand
from bidkv.planning.fleet import FleetAnswer, FleetCheck, FleetVerification, verify_fleet

__all__ = [
    "SHARES",
    "CapacityPlan",
    "Demand",
    "FleetAnswer",
    "FleetCheck",
    "FleetVerification",
    "RateCheck",
    "ReplicaOption",
    "check_rates",
    "make_plan",
    "verify_fleet",
]
