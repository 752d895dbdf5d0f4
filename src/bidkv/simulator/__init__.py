"""A simulator that schedules exactly as the real engine does, in time given by a step-time profile."""

from bidkv.simulator.arrivals import SimulationError
from bidkv.simulator.request import SimRequest
from bidkv.simulator.run import simulate, simulate_sessions
from bidkv.simulator.sessions import SessionSource
from bidkv.simulator.sglang.config import SglangConfig
from bidkv.simulator.sglang.engine import SglangStepEngine
from bidkv.simulator.step_engine import StepEngine
from bidkv.simulator.vllm.config import EngineConfig
from bidkv.simulator.vllm.engine import VllmStepEngine

__all__ = [
    "EngineConfig",
    "SessionSource",
    "SglangConfig",
    "SglangStepEngine",
    "SimRequest",
    "SimulationError",
    "StepEngine",
    "VllmStepEngine",
    "simulate",
    "simulate_sessions",
]
