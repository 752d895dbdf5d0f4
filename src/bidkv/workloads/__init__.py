"""Synthetic workloads, frozen workloads, and the split of requests no cache can hold."""

from bidkv.workloads.frozen import Manifest, freeze, load_frozen, manifest_path
from bidkv.workloads.generators.generate import available_workloads, generate
from bidkv.workloads.repeated import repeat_for
from bidkv.workloads.unfit import UnfitReport, leave_out_unfit

__all__ = [
    "Manifest",
    "UnfitReport",
    "available_workloads",
    "freeze",
    "generate",
    "leave_out_unfit",
    "load_frozen",
    "manifest_path",
    "repeat_for",
]
