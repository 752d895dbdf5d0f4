"""The routers that ship. Ties go to the replica of the lowest index."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.simulator.fleet.router import ArrivingRequest, ReplicaView


def find_least_loaded(replicas: Sequence[ReplicaView]) -> ReplicaView:
    """Return the replica whose outstanding requests have the fewest prompt tokens together."""
    return min(replicas, key=lambda replica: replica.outstanding_prompt_tokens)


class RoundRobin:
    """`round-robin`: one replica after the other, whatever their load."""

    name = "round-robin"

    def __init__(self) -> None:
        self._next = -1

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """Return the replica after the last one."""
        self._next = (self._next + 1) % len(replicas)
        return replicas[self._next]


class LeastLoaded:
    """`least-loaded`: the fewest prompt tokens of unfinished requests.

    A router knows them without asking an engine, and they tell more than a count of requests, whose lengths
    differ by far, or than memory in use, which waiting requests do not show in.
    """

    name = "least-loaded"

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """Return the least loaded replica."""
        return find_least_loaded(replicas)


class PrefixAware:
    """`prefix-aware`: the replica that has most of the prompt cached, while the load is in balance.

    The rule of SGLang's router (`cache_aware`, sgl-model-gateway, defaults of its documentation): the load is
    out of balance when the most outstanding requests exceed the fewest by more than `balance_abs` and are
    more than `balance_rel` times as many; then, and when no replica has more than `cache_threshold` of the
    prompt, the least loaded replica takes it, so a hot prefix overloads no replica. SGLang's router guesses
    caches from what it sent where; here each replica's own cache is looked up, as llm-d's precise scorer does
    by the engine's cache events.

    Args:
        cache_threshold: share of the prompt above which a cached prefix decides, in [0, 1].
        balance_abs: requests.
        balance_rel: at least 1.

    Raises:
        ValueError: an option out of range.
    """

    name = "prefix-aware"

    def __init__(
        self, *, cache_threshold: float = 0.3, balance_abs: int = 64, balance_rel: float = 1.5
    ) -> None:
        if not 0.0 <= cache_threshold <= 1.0:
            raise ValueError(f"cache_threshold must be in [0, 1], got {cache_threshold}")
        if balance_abs < 0:
            raise ValueError(f"balance_abs must be >= 0, got {balance_abs}")
        if not balance_rel >= 1.0:
            raise ValueError(f"balance_rel must be >= 1, got {balance_rel}")
        self._cache_threshold = cache_threshold
        self._balance_abs = balance_abs
        self._balance_rel = balance_rel

    def choose(self, request: ArrivingRequest, replicas: Sequence[ReplicaView]) -> ReplicaView:
        """Return the replica with the longest cached prefix, or the least loaded one."""
        loads = [replica.outstanding_requests for replica in replicas]
        low, high = min(loads), max(loads)
        if high - low > self._balance_abs and high > self._balance_rel * low:
            return find_least_loaded(replicas)
        cached = [replica.cached_tokens(request) for replica in replicas]
        longest = max(cached)
        if longest <= self._cache_threshold * request.prompt_tokens:
            return find_least_loaded(replicas)
        return find_least_loaded(
            [replica for replica, tokens in zip(replicas, cached, strict=True) if tokens == longest]
        )
