"""bidkv: the control plane for an LLM server's KV cache.

Every public name is imported on first use (PEP 562): an engine imports this package in each of its
processes, including those that use none of it. No public name needs a third-party package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bidkv._version import __version__

if TYPE_CHECKING:
    from bidkv.adapters import BaseAdapterMetrics, FrameworkAdapter
    from bidkv.baselines import (
        BaselineContext,
        BaselineRegistry,
        BaselineStrategy,
        BidKVStrategy,
        CompressionAction,
        LargestFirstStrategy,
        PreemptEvictSJFStrategy,
        PreemptEvictStrategy,
        RequestState,
        StaticRandomStrategy,
    )
    from bidkv.config import BidKVConfig
    from bidkv.experiments import ExperimentMetrics
    from bidkv.policy import register, resolve
    from bidkv.pool import BidPoolManager
    from bidkv.pressure import PressureConfig, PressureDetector
    from bidkv.profiles import load_profile
    from bidkv.protocol import (
        FEATURE_GATE_ID,
        BidAcceptance,
        BidCapacityError,
        BidExecutionError,
        BidExpiredError,
        BidPool,
        CompressionBid,
        CompressionBidError,
        CompressionBidProvider,
        Policy,
        compute_utility,
        make_bid_id,
    )
    from bidkv.scoring import PositionalScoring, ScoringStrategy, build_bids
    from bidkv.simulator import EngineConfig, simulate
    from bidkv.simulator.fleet import simulate_fleet
    from bidkv.solver import GreedyBidSolver, SolverConfig
    from bidkv.stability import QueueingConfig, QueueingController, StabilityState
    from bidkv.workloads import generate
    from bidkv.workloads.traces import read_trace

__all__ = [
    "FEATURE_GATE_ID",
    "BaseAdapterMetrics",
    "BaselineContext",
    "BaselineRegistry",
    "BaselineStrategy",
    "BidAcceptance",
    "BidCapacityError",
    "BidExecutionError",
    "BidExpiredError",
    "BidKVConfig",
    "BidKVStrategy",
    "BidPool",
    "BidPoolManager",
    "CompressionAction",
    "CompressionBid",
    "CompressionBidError",
    "CompressionBidProvider",
    "EngineConfig",
    "ExperimentMetrics",
    "FrameworkAdapter",
    "GreedyBidSolver",
    "LargestFirstStrategy",
    "Policy",
    "PositionalScoring",
    "PreemptEvictSJFStrategy",
    "PreemptEvictStrategy",
    "PressureConfig",
    "PressureDetector",
    "QueueingConfig",
    "QueueingController",
    "RequestState",
    "ScoringStrategy",
    "SolverConfig",
    "StabilityState",
    "StaticRandomStrategy",
    "__version__",
    "build_bids",
    "compute_utility",
    "generate",
    "load_profile",
    "make_bid_id",
    "read_trace",
    "register",
    "resolve",
    "simulate",
    "simulate_fleet",
]

_ROOM_NAMES = {
    "bidkv.adapters": "BaseAdapterMetrics FrameworkAdapter",
    "bidkv.baselines": (
        "BaselineContext BaselineRegistry BaselineStrategy BidKVStrategy CompressionAction "
        "LargestFirstStrategy PreemptEvictSJFStrategy PreemptEvictStrategy RequestState StaticRandomStrategy"
    ),
    "bidkv.config": "BidKVConfig",
    "bidkv.experiments": "ExperimentMetrics",
    "bidkv.policy": "register resolve",
    "bidkv.pool": "BidPoolManager",
    "bidkv.pressure": "PressureConfig PressureDetector",
    "bidkv.profiles": "load_profile",
    "bidkv.protocol": (
        "FEATURE_GATE_ID BidAcceptance BidCapacityError BidExecutionError BidExpiredError BidPool "
        "CompressionBid CompressionBidError CompressionBidProvider Policy compute_utility make_bid_id"
    ),
    "bidkv.scoring": "PositionalScoring ScoringStrategy build_bids",
    "bidkv.simulator": "EngineConfig simulate",
    "bidkv.simulator.fleet": "simulate_fleet",
    "bidkv.solver": "GreedyBidSolver SolverConfig",
    "bidkv.stability": "QueueingConfig QueueingController StabilityState",
    "bidkv.workloads": "generate",
    "bidkv.workloads.traces": "read_trace",
}
_HOME_ROOM = {name: room for room, names in _ROOM_NAMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    room = _HOME_ROOM.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(room), name)
    globals()[name] = value  # later accesses find it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
