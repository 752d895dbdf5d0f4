"""bidkv: the control plane for an LLM server's KV cache.

Every public name is imported when it is first used (PEP 562): an engine loads this package in each of
its processes, also where nothing of it is wanted.
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
    from bidkv.pool import BidPoolManager
    from bidkv.pressure import PressureConfig, PressureDetector
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
        compute_utility,
        make_bid_id,
    )
    from bidkv.scoring import PositionalScoring, ScoringStrategy, build_bids
    from bidkv.solver import GreedyBidSolver, SolverConfig
    from bidkv.stability import QueueingConfig, QueueingController, StabilityState

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
    "ExperimentMetrics",
    "FrameworkAdapter",
    "GreedyBidSolver",
    "LargestFirstStrategy",
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
    "make_bid_id",
]

_NAMES_OF_ROOM = {
    "bidkv.adapters": "BaseAdapterMetrics FrameworkAdapter",
    "bidkv.baselines": (
        "BaselineContext BaselineRegistry BaselineStrategy BidKVStrategy CompressionAction "
        "LargestFirstStrategy PreemptEvictSJFStrategy PreemptEvictStrategy RequestState StaticRandomStrategy"
    ),
    "bidkv.config": "BidKVConfig",
    "bidkv.experiments": "ExperimentMetrics",
    "bidkv.pool": "BidPoolManager",
    "bidkv.pressure": "PressureConfig PressureDetector",
    "bidkv.protocol": (
        "FEATURE_GATE_ID BidAcceptance BidCapacityError BidExecutionError BidExpiredError BidPool "
        "CompressionBid CompressionBidError CompressionBidProvider compute_utility make_bid_id"
    ),
    "bidkv.scoring": "PositionalScoring ScoringStrategy build_bids",
    "bidkv.solver": "GreedyBidSolver SolverConfig",
    "bidkv.stability": "QueueingConfig QueueingController StabilityState",
}
_ROOM_OF_NAME = {name: room for room, names in _NAMES_OF_ROOM.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    room = _ROOM_OF_NAME.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(room), name)
    globals()[name] = value  # the next access no longer comes here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
