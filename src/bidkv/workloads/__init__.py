"""Workloads: traces, synthetic requests and sessions, frozen workloads, and requests no cache can hold."""

from bidkv.workloads.frozen import Manifest, freeze, load_frozen, manifest_path
from bidkv.workloads.generators.generate import (
    available_session_workloads,
    available_workloads,
    generate,
    generate_sessions,
)
from bidkv.workloads.repeated import repeat_for
from bidkv.workloads.unfit import UnfitReport, leave_out_unfit

__all__ = [
    "Manifest",
    "UnfitReport",
    "available_session_workloads",
    "available_workloads",
    "freeze",
    "generate",
    "generate_sessions",
    "leave_out_unfit",
    "load_frozen",
    "manifest_path",
    "repeat_for",
]
