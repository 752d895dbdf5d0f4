"""Several replicas behind a router, on one clock."""

from bidkv.simulator.fleet.registry import available_routers, make_router
from bidkv.simulator.fleet.router import ArrivingRequest, ReplicaView, Router
from bidkv.simulator.fleet.routers import LeastLoaded, PrefixAware, RoundRobin
from bidkv.simulator.fleet.run import FleetResult, simulate_fleet

__all__ = [
    "ArrivingRequest",
    "FleetResult",
    "LeastLoaded",
    "PrefixAware",
    "ReplicaView",
    "RoundRobin",
    "Router",
    "available_routers",
    "make_router",
    "simulate_fleet",
]
