"""The one object an engine talks to: asks the policy, guards it, feeds the estimators, counts."""

from bidkv.control.controller import DEFAULT_TIME_BUDGET_S, Controller
from bidkv.control.counters import ControlCounters

__all__ = ["DEFAULT_TIME_BUDGET_S", "ControlCounters", "Controller"]
