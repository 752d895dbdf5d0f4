"""What came out of a compiled run, read from the kernel's arrays."""

from __future__ import annotations

import numpy as np

from bidkv.results import EngineTotals, TimelinePoint, TokenGaps
from bidkv.simulator.vllm.compiled import layout as at
from bidkv.simulator.vllm.compiled.memory import Kernel


def read_totals(kernel: Kernel, first_arrival_s: float, last_give_up_s: float) -> EngineTotals:
    """Return the counters of the run so far.

    Args:
        kernel: what ran.
        first_arrival_s: when the first request arrived.
        last_give_up_s: when a client last gave up a request; minus infinity for never.
    """
    words, seconds = kernel.words, kernel.seconds
    last_s = max(seconds[at.LAST_FINISH_S], last_give_up_s)
    recomputed, lost = _count_open_lives(kernel)
    counts = kernel.tables.gap_counts
    return EngineTotals(
        steps=words[at.STEPS],
        scheduled_tokens=words[at.SCHEDULED_TOKENS],
        recomputed_tokens=words[at.RECOMPUTED] + recomputed,
        preemptions=words[at.PREEMPTION_TOTAL],
        used_block_seconds=seconds[at.USED_BLOCK_SECONDS],
        usable_blocks=words[at.NUM_BLOCKS],
        busy_s=max(0.0, last_s - first_arrival_s),
        prompt_tokens_seen=words[at.PROMPT_TOKENS_SEEN],
        prefix_hit_tokens=words[at.PREFIX_HIT_TOKENS],
        lost_prefix_tokens=words[at.LOST_PREFIX_TOKENS] + lost,
        token_gaps=TokenGaps(
            ((at.FIRST_GAP_BIN + place, int(counts[place])) for place in np.flatnonzero(counts).tolist()),
            seconds[at.LONGEST_GAP_S],
        ),
    )


def _count_open_lives(kernel: Kernel) -> tuple[int, int]:
    """`TokenBooks.count_open_lives`."""
    table = kernel.tables.requests
    slots = kernel.tables.running[: kernel.words[at.RUNNING_COUNT]]
    computed, start, high = (table[row, slots] for row in (at.COMPUTED, at.START, at.HIGH))
    recomputed = np.minimum(computed, high) - start
    lost = np.minimum(computed, table[at.PAST, slots]) - np.maximum(start, high)
    return int(recomputed.clip(0).sum()), int(lost.clip(0).sum())


def read_timeline(kernel: Kernel) -> list[TimelinePoint]:
    """Return the engine's state over time."""
    t, count = kernel.tables, kernel.words[at.TIMELINE_LENGTH]
    rows = zip(t.timeline_s[:count].tolist(), *t.timeline[:, :count].tolist(), strict=True)
    return [TimelinePoint(*row) for row in rows]
