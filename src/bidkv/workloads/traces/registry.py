"""All trace formats, in the order in which a file is tried."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bidkv.workloads.traces.formats.azure import AZURE
from bidkv.workloads.traces.formats.bailian import BAILIAN
from bidkv.workloads.traces.formats.base import Format
from bidkv.workloads.traces.formats.bench_result import BENCH_RESULT
from bidkv.workloads.traces.formats.burstgpt import BURSTGPT
from bidkv.workloads.traces.formats.chats import CHATS
from bidkv.workloads.traces.formats.lengths import LENGTHS, VIDUR
from bidkv.workloads.traces.formats.mooncake import DYNAMO, GUIDELLM, MOONCAKE
from bidkv.workloads.traces.formats.mooncake_sessions import MOONCAKE_SESSIONS
from bidkv.workloads.traces.formats.spans import SPANS
from bidkv.workloads.traces.formats.stated import STATED
from bidkv.workloads.traces.formats.tracelab import TRACELAB

# A format that asks for more columns stands before one that asks for some of them: TraceLab's rounds have a
# session_id too, BurstGPT's columns include those of a table of lengths. Stated columns come first, and
# Mooncake, which takes any JSON lines in order to name what they lack, comes last.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        known.name: known
        for known in (
            STATED,
            AZURE,
            BURSTGPT,
            TRACELAB,
            BAILIAN,
            SPANS,
            BENCH_RESULT,
            CHATS,
            MOONCAKE_SESSIONS,
            DYNAMO,
            GUIDELLM,
            VIDUR,
            LENGTHS,
            MOONCAKE,
        )
    }
)
