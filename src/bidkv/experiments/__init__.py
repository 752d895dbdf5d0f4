"""Experiments: traces and workloads, runners for every engine, statistics and the report."""
