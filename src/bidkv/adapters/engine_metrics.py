"""The metrics that both engines' adapters export beside the controller's, with one help text each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bidkv.observability.metrics import MetricSource

HELP = {
    "hooks_in_place": "1 while this project's hooks work, 0 when the engine is left to its own rules.",
    "adapter_failures": "Errors of this project's own code; the first leaves the engine to its own rules.",
    "total_blocks": "KV blocks that requests can hold.",
    "free_blocks": "KV blocks that no running request holds; cached ones are included.",
    "running_requests": "Requests that run.",
    "waiting_requests": "Requests that wait to enter.",
    "floor_blocks": "Blocks the last admission had to leave free.",
    "gate_shut": "1 while the policy admits no request.",
    "limit_cycle": "1 while requests are preempted and come back in waves at a steady beat.",
}
"""Name, without the `bidkv_` prefix and `_total`, to help text."""

COUNTERS = frozenset({"adapter_failures"})
"""Those of :data:`HELP` that only grow; the others are gauges."""


def make_engine_metrics(readers: Mapping[str, Callable[[], float]]) -> dict[str, MetricSource]:
    """Return the sources of metrics by name.

    Args:
        readers: one of :data:`HELP`'s names to the function that reads its value, called at scrape time from
            the exporter's thread.

    Raises:
        KeyError: a name without a help text.
    """
    from bidkv.observability.metrics import MetricSource

    return {name: MetricSource(HELP[name], read, name in COUNTERS) for name, read in readers.items()}
