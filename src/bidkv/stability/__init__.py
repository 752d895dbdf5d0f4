"""Can this load be sustained, how much memory must stay free, how many replicas does it take."""

from bidkv.stability.agents import AgentCounts
from bidkv.stability.assessment import Assessment, LoadVerdict, assess
from bidkv.stability.backlog import BacklogWatch
from bidkv.stability.config import QueueingConfig
from bidkv.stability.controller import QueueingController
from bidkv.stability.estimators import ArrivalRate, Estimate, ForgettingMoments
from bidkv.stability.lengths import EmpiricalLaw, LengthLaw, UniformLaw, memory_demand
from bidkv.stability.limit_cycle import CycleReport, LimitCycleDetector
from bidkv.stability.occupancy import ReplicaShape
from bidkv.stability.quantization import QuantizationAdvisor, blocks_at_bits
from bidkv.stability.replica_model import ReplicaModel, ReplicaState
from bidkv.stability.replicas import TARGET_LOAD, ReplicaAdvisor
from bidkv.stability.service_rate import Limit, ServiceRate, service_rate
from bidkv.stability.state import AdmissionDecision, DecisionReason, StabilityState
from bidkv.stability.step_mix import StepTime

__all__ = [
    "TARGET_LOAD",
    "AdmissionDecision",
    "AgentCounts",
    "ArrivalRate",
    "Assessment",
    "BacklogWatch",
    "CycleReport",
    "DecisionReason",
    "EmpiricalLaw",
    "Estimate",
    "ForgettingMoments",
    "LengthLaw",
    "Limit",
    "LimitCycleDetector",
    "LoadVerdict",
    "QuantizationAdvisor",
    "QueueingConfig",
    "QueueingController",
    "ReplicaAdvisor",
    "ReplicaModel",
    "ReplicaShape",
    "ReplicaState",
    "ServiceRate",
    "StabilityState",
    "StepTime",
    "UniformLaw",
    "assess",
    "blocks_at_bits",
    "memory_demand",
    "service_rate",
]
