"""A simulator that schedules exactly as the real engine does, in time given by a step-time profile."""

from bidkv.simulator.arrivals import SimulationError
from bidkv.simulator.request import SimRequest
from bidkv.simulator.run import simulate
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.sglang.engine import SglangEngine
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.engine import Engine

__all__ = [
    "Engine",
    "EngineConfig",
    "SglangConfig",
    "SglangEngine",
    "SimRequest",
    "SimulationError",
    "simulate",
]
