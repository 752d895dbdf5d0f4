"""A simulator that schedules exactly as the real engine does, in time given by a step-time profile."""

from bidkv.simulator.arrivals import SimulationError
from bidkv.simulator.config import EngineConfig
from bidkv.simulator.engine import Engine
from bidkv.simulator.request import SimRequest
from bidkv.simulator.run import simulate
from bidkv.simulator.sglang_config import SglangConfig
from bidkv.simulator.sglang_engine import SglangEngine

__all__ = [
    "Engine",
    "EngineConfig",
    "SglangConfig",
    "SglangEngine",
    "SimRequest",
    "SimulationError",
    "simulate",
]
