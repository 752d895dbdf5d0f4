"""One result type for every engine: records, totals, percentiles, and the figures derived from them."""

from bidkv.results.codec import SCHEMA, SCHEMA_VERSION, SchemaError, decode, encode
from bidkv.results.percentiles import nearest_rank
from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.result import Latency, RunResult

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "EngineTotals",
    "Latency",
    "Outcome",
    "RequestRecord",
    "RunResult",
    "SchemaError",
    "TimelinePoint",
    "decode",
    "encode",
    "nearest_rank",
]
