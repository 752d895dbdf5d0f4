"""The one object an engine talks to: asks the policy, guards it, feeds the estimators, counts."""

from bidkv.control.controller import Controller
from bidkv.control.counters import ControlCounters
from bidkv.control.guarded_policy import DEFAULT_TIME_BUDGET_S, STOPS

__all__ = ["DEFAULT_TIME_BUDGET_S", "STOPS", "ControlCounters", "Controller"]
