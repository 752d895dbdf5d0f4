"""The metrics that both engines' adapters export beside the controller's, with one help text each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from bidkv.control import Controller

if TYPE_CHECKING:
    from bidkv.observability.metrics import MetricSource

HELP = {
    "hooks_in_place": "1 while this project's hooks work, 0 when the engine is left to its own rules.",
    "adapter_failures": "Errors of this project's own code; the first leaves the engine to its own rules.",
    "engine_number": "The engine's data-parallel rank; engines of one process have different ones.",
    "total_blocks": "KV blocks that requests can hold.",
    "free_blocks": "KV blocks that no running request holds; cached ones are included.",
    "running_requests": "Requests that run.",
    "waiting_requests": "Requests that wait to enter.",
    "floor_blocks": "Blocks the last admission had to leave free.",
    "gate_shut": "1 while the policy admits no request.",
    "sessions_idle": "Sessions between two turns whose past is cached.",
    "sessions_resident": "Sessions whose past is in memory: the idle ones and those with a running turn.",
    "sessions_waiting": "Turns that wait to enter.",
    "session_blocks_retained": "Cached KV blocks that a session would use again; no request holds them.",
    "retention_unavailable": "1 while the policy keeps sessions and this engine's cache cannot be told to.",
    "retention_price": "What holding the memory of an idle session costs, in returns per second.",
    "retention_index": "What the idle session that would be dropped next is worth, in returns per second.",
    "turns_told": "Arrivals whose client named a session.",
    "turns_found": "Arrivals matched by prefix with the past of a session that no client named.",
    "prompt_tokens": "Prompt tokens of all requests, counted at the first admission.",
    "prefix_hit_tokens": "Prompt tokens found in the prefix cache at the first admission.",
    "lost_prefix_tokens": "Prompt tokens that an earlier turn had computed and that were no longer cached.",
    "desired_replicas": "Replicas that this server's load needs; the sum over a fleet is its size.",
    "limit_cycle": "1 while requests are preempted and come back in waves at a steady beat.",
}
"""Name, without the `bidkv_` prefix and `_total`, to help text."""

COUNTERS = frozenset(
    {
        "adapter_failures",
        "lost_prefix_tokens",
        "prefix_hit_tokens",
        "prompt_tokens",
        "turns_found",
        "turns_told",
    }
)
"""Those of :data:`HELP` that only grow; the others are gauges."""

POLICY_FIGURES = {"price_per_s": "retention_price", "index_per_s": "retention_index"}
"""Figures of a policy that are exported, by its own name for them."""


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


def make_session_readers(
    controller: Controller, policy_figures: Mapping[str, float]
) -> dict[str, Callable[[], float]]:
    """Return the readers of everything about sessions; all of them are O(1) and read 0 without sessions.

    Args:
        controller: keeps the session accounts.
        policy_figures: the policy's own figures as they were last read in the engine's thread.
    """

    def read(name: str) -> float:
        sessions = controller.sessions
        if sessions is None:
            return 0.0
        idle, running = len(sessions.idle), sessions.num_running
        values = {
            "sessions_idle": idle,
            "sessions_resident": idle + running,
            "sessions_waiting": sessions.num_waiting,
            "session_blocks_retained": sessions.retained_blocks,
        }
        return float(values[name] if name in values else getattr(sessions.figures, name))

    def read_policy(name: str) -> float:
        return policy_figures.get(name, 0.0)

    books = (
        "sessions_idle", "sessions_resident", "sessions_waiting", "session_blocks_retained",
        "turns_told", "turns_found", "prompt_tokens", "prefix_hit_tokens", "lost_prefix_tokens",
    )  # fmt: skip
    return {
        "retention_unavailable": lambda: float(controller.wants_drops and controller.sessions is None),
        **{name: partial(read, name) for name in books},
        **{metric: partial(read_policy, name) for name, metric in POLICY_FIGURES.items()},
    }
