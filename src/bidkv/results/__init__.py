"""One result type for every engine: records, totals, percentiles, and the figures derived from them."""

from bidkv.results.codec import SCHEMA, SCHEMA_VERSION, SchemaError, decode, encode
from bidkv.results.gaps import TokenGaps, find_gap_bin
from bidkv.results.percentiles import nearest_rank
from bidkv.results.records import EngineTotals, Outcome, RequestRecord, TimelinePoint
from bidkv.results.result import Latency, RunResult
from bidkv.results.sessions import summarize_sessions
from bidkv.results.streamed import RecordTally, StreamedResult

__all__ = [
    "SCHEMA",
    "SCHEMA_VERSION",
    "EngineTotals",
    "Latency",
    "Outcome",
    "RecordTally",
    "RequestRecord",
    "RunResult",
    "SchemaError",
    "StreamedResult",
    "TimelinePoint",
    "TokenGaps",
    "decode",
    "encode",
    "find_gap_bin",
    "nearest_rank",
    "summarize_sessions",
]
