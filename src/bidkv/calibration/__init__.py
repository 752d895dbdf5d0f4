"""Calibration: fit a step-time profile to an engine's step log, and say how good it is.

Needs the ``sim`` extra. From a shell: ``bidkv calibrate``. Names are imported when first used, because a
GPU host reads the plan and the columns of this room without scipy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bidkv.calibration.errors_by_regime import CandidateError, RegimeError
    from bidkv.calibration.fitting import CANDIDATES, CHOSEN, Graphs, read_graphs
    from bidkv.calibration.report import Calibration, as_text, calibrate, check, errors_as_text
    from bidkv.calibration.step_log import StepLog, StepLogError, read_step_log

_MODULES = {
    "errors_by_regime": ("CandidateError", "RegimeError"),
    "fitting": ("CANDIDATES", "CHOSEN", "Graphs", "read_graphs"),
    "report": ("Calibration", "as_text", "calibrate", "check", "errors_as_text"),
    "step_log": ("StepLog", "StepLogError", "read_step_log"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CANDIDATES",
    "CHOSEN",
    "Calibration",
    "CandidateError",
    "Graphs",
    "RegimeError",
    "StepLog",
    "StepLogError",
    "as_text",
    "calibrate",
    "check",
    "errors_as_text",
    "read_graphs",
    "read_step_log",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
