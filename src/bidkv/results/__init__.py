"""One result type for every engine: records, totals, percentiles, and the figures derived from them."""

from bidkv.results.percentiles import nearest_rank
from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.result import Latency, RunResult

__all__ = [
    "EngineTotals",
    "Latency",
    "Outcome",
    "RequestRecord",
    "RunResult",
    "TimelinePoint",
    "nearest_rank",
]
