"""The Azure LLM inference traces (Patel et al., ISCA 2024): a CSV of timestamps and token counts.

Columns TIMESTAMP, ContextTokens, GeneratedTokens. A timestamp is "2023-11-16 18:15:46.6805900": up to nine
digits of a second, kept exactly; the 2024 files append an offset from UTC ("+00:00"), which is honored. The
2025 files of multimodal requests add NumImages; their rows without text are left out unless it is stated how
many tokens an image is.
"""

from __future__ import annotations

from bidkv.workloads.traces.formats.columns import ColumnLayout, make_column_format

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

AZURE = make_column_format(
    "azure",
    "a table of TIMESTAMP (dates), ContextTokens, GeneratedTokens, and for multimodal requests NumImages",
    ColumnLayout(
        time=("TIMESTAMP",),
        time_unit="date",
        prompt=("ContextTokens",),
        output=("GeneratedTokens",),
        images=("NumImages",),
    ),
)
