"""Calibration: fit a step-time profile to an engine's step log, and say how good it is.

Needs the ``sim`` extra. From a shell: ``bidkv calibrate``.
"""

from bidkv.calibration.errors_by_regime import CandidateError, RegimeError
from bidkv.calibration.fitting import CANDIDATES, CHOSEN, Graphs, recorded_graphs
from bidkv.calibration.report import Calibration, as_text, calibrate, check, errors_as_text
from bidkv.calibration.step_log import StepLog, StepLogError, read_step_log

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
    "read_step_log",
    "recorded_graphs",
]
