"""Experiments: the harness that compares policies on simulated and real engines."""

from bidkv.evaluation.experiment_metrics import ExperimentMetrics

__all__ = ["ExperimentMetrics"]
