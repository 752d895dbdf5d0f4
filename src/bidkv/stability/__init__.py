"""Can this load be sustained, how much memory must stay free, how many replicas does it take."""

from bidkv.stability.agents import AgentCounts
from bidkv.stability.config import QueueingConfig
from bidkv.stability.controller import QueueingController
from bidkv.stability.estimators import ArrivalRate, Estimate, ForgettingMoments
from bidkv.stability.lengths import EmpiricalLaw, LengthLaw, UniformLaw, memory_demand
from bidkv.stability.quantization import QuantizationAdvisor, blocks_at_bits
from bidkv.stability.state import AdmissionDecision, DecisionReason, StabilityState

__all__ = [
    "AdmissionDecision",
    "AgentCounts",
    "ArrivalRate",
    "DecisionReason",
    "EmpiricalLaw",
    "Estimate",
    "ForgettingMoments",
    "LengthLaw",
    "QuantizationAdvisor",
    "QueueingConfig",
    "QueueingController",
    "StabilityState",
    "UniformLaw",
    "blocks_at_bits",
    "memory_demand",
]
