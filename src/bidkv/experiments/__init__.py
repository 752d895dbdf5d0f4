"""Experiments: traces and workloads, runners for every engine, statistics and the report."""

from bidkv.experiments.metrics import ExperimentMetrics

__all__ = ["ExperimentMetrics"]
