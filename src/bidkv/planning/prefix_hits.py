"""Prompt tokens that a replica finds in its prefix cache, from what the requests of a trace repeat."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from bidkv.protocol.requests import WorkloadRequest


def measure_hits(requests: Sequence[WorkloadRequest], memory_tokens: int, chunk_tokens: int) -> float:
    """Return the share of prompt tokens found in a cache that drops what was used least recently.

    Args:
        requests: in the order in which they reach one replica.
        memory_tokens: all tokens of KV that fit: what runs belongs to what was used last.
        chunk_tokens: prompt tokens that one of the requests' `hash_ids` stands for.
    """
    cached: OrderedDict[int, None] = OrderedDict()
    most = memory_tokens // chunk_tokens
    prompts = found = 0
    for request in requests:
        prompts += request.prompt_tokens
        known = 0
        for hash_id in request.hash_ids:
            if hash_id not in cached:
                break
            known += 1
        # The last token is always computed.
        found += min(known * chunk_tokens, request.prompt_tokens - 1)
        # An engine gives up the end of a prompt before its beginning, so the beginning is the newest.
        for hash_id in reversed(request.hash_ids):
            cached[hash_id] = None
            cached.move_to_end(hash_id)
        while len(cached) > most:
            cached.popitem(last=False)
    return found / prompts if prompts else 0.0
