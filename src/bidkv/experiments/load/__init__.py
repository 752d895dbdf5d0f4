"""The load generator: an open loop over HTTP, in a process of its own, that hides no wait from its figures.

Requests are sent at the times their workload states, whatever the server does (no coordinated omission), and
every latency counts from the intended time. `python -m bidkv.experiments.load --help` runs it alone.
"""

from bidkv.experiments.load.samples import LoadReport, Sample, records_of

__all__ = ["LoadReport", "Sample", "records_of"]
