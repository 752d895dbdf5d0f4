"""Can this load be sustained, how much memory must stay free, how many replicas does it take."""

from bidkv.stability.agents import AgentCounts
from bidkv.stability.config import QueueingConfig
from bidkv.stability.controller import QueueingController
from bidkv.stability.estimators import ArrivalRate, Estimate, ForgettingMoments
from bidkv.stability.lengths import EmpiricalLaw, LengthLaw, UniformLaw, memory_demand
from bidkv.stability.limit_cycle import CycleReport, LimitCycleDetector
from bidkv.stability.load import LoadModel, LoadPoint
from bidkv.stability.occupancy import ReplicaShape
from bidkv.stability.quantization import QuantizationAdvisor, blocks_at_bits
from bidkv.stability.service_rate import Limit, ServiceRate, rate_at_bits, service_rate
from bidkv.stability.sketch import LengthSketch
from bidkv.stability.state import AdmissionDecision, DecisionReason, StabilityState
from bidkv.stability.step_mix import StepTime
from bidkv.stability.verdict import Assessment, Verdict, assess, replicas_needed

__all__ = [
    "AdmissionDecision",
    "AgentCounts",
    "ArrivalRate",
    "Assessment",
    "CycleReport",
    "DecisionReason",
    "EmpiricalLaw",
    "Estimate",
    "ForgettingMoments",
    "LengthLaw",
    "LengthSketch",
    "Limit",
    "LimitCycleDetector",
    "LoadModel",
    "LoadPoint",
    "QuantizationAdvisor",
    "QueueingConfig",
    "QueueingController",
    "ReplicaShape",
    "ServiceRate",
    "StabilityState",
    "StepTime",
    "UniformLaw",
    "Verdict",
    "assess",
    "blocks_at_bits",
    "memory_demand",
    "rate_at_bits",
    "replicas_needed",
    "service_rate",
]
