"""Capacity planning: what a replica sustains, how many it takes, what limits them, what more would gain."""

from bidkv.planning.capacity import CapacityPlan, ReplicaOption, make_plan
from bidkv.planning.check import SHARES, RateCheck, check_rates
from bidkv.planning.demand import Demand
from bidkv.planning.fleet import FleetAnswer, FleetCheck, FleetVerification, verify_fleet
from bidkv.planning.sizing import Sizing, size_plan

__all__ = [
    "SHARES",
    "CapacityPlan",
    "Demand",
    "FleetAnswer",
    "FleetCheck",
    "FleetVerification",
    "RateCheck",
    "ReplicaOption",
    "Sizing",
    "check_rates",
    "make_plan",
    "size_plan",
    "verify_fleet",
]
