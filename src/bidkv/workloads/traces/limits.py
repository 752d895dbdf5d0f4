"""Bounds on what a trace may hold: far beyond real traffic, and low enough to stop a corrupt file early."""

from __future__ import annotations

MAX_TOKENS = 100_000_000
"""Most tokens of one prompt, one output or one cap."""

MAX_TIME_MS = 10_000_000_000_000
"""Latest timestamp and longest deadline in milliseconds (the year 2286 when counted from 1970)."""

MAX_LINE_BYTES = 1024 * 1024
"""Longest line; the chunk hashes of a prompt of tens of millions of tokens fit."""

MAX_DOCUMENT_BYTES = 512 * 1024 * 1024
"""Largest JSON document that is not one row a line; it is held in memory as a whole."""

MAX_TEXT_CHARS = 256
"""Longest request or agent name."""

MAX_ABS_PRIORITY = 2**31 - 1
"""Largest priority either way."""

HASH_CHUNK_TOKENS = 512
"""Prompt tokens that one Mooncake hash id stands for."""

MAX_WEIGHT = 1_000_000_000
"""Largest weight of one request."""
