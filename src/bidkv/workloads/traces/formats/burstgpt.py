"""BurstGPT (Wang et al., 2024): a CSV of seconds, models and token counts, failures included.

Six columns (Timestamp, Model, Request tokens, Response tokens, Total tokens, Log Type), or eight with
Session ID and Elapsed time. Requests that failed have no response tokens; they are left out and counted.
"""

from __future__ import annotations

from bidkv.workloads.traces.formats.columns import ColumnLayout, make_column_format

BURSTGPT = make_column_format(
    "burstgpt",
    "a table of Timestamp (s), Request tokens, Response tokens, and optionally Session ID",
    ColumnLayout(
        time=("Timestamp",),
        time_unit="s",
        prompt=("Request tokens", "prompt_tokens"),
        output=("Response tokens", "output_tokens"),
        agent=("Session ID",),
        also=("Log Type",),
        zero_is_failure=True,
    ),
)
