"""Tables of token counts: Vidur's and Etalon's lengths, Vidur's arrivals, and guidellm's trace as a CSV.

Columns num_prefill_tokens and num_decode_tokens, or prompt_tokens and output_tokens, with `arrived_at` or
`timestamp` in seconds, or with no arrivals at all; other columns are ignored.
"""

from __future__ import annotations

from bidkv.workloads.traces.formats.columns import ColumnLayout, make_column_format

COLUMN_PAIRS = (("num_prefill_tokens", "num_decode_tokens"), ("prompt_tokens", "output_tokens"))
_PROMPT = tuple(prompt for prompt, _ in COLUMN_PAIRS)
_OUTPUT = tuple(output for _, output in COLUMN_PAIRS)

VIDUR = make_column_format(
    "vidur",
    "a table of arrived_at or timestamp (s) and num_prefill_tokens, num_decode_tokens or prompt_tokens, "
    "output_tokens",
    ColumnLayout(time=("arrived_at", "timestamp"), time_unit="s", prompt=_PROMPT, output=_OUTPUT),
)
LENGTHS = make_column_format(
    "lengths",
    "a table of num_prefill_tokens, num_decode_tokens or prompt_tokens, output_tokens, without arrivals",
    ColumnLayout(prompt=_PROMPT, output=_OUTPUT),
)
