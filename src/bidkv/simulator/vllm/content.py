"""Names for the content of KV blocks: equal names mean equal tokens from the first one up to the block's end.

The simulator has no tokens. A prompt is known as segments: a content key and a number of tokens, where equal
leading segments are equal tokens. A block's key is the place of its last token in the tree of such segments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bidkv.simulator.content import Prompt, answer_key, prompt_segments
from bidkv.simulator.request import SimRequest

BlockKey = tuple[int, int]
"""(node of the content tree, index of the block); equal keys mean equal content up to the block's end."""

_ROOT = -1
_NO_END = sys.maxsize


class ContentTree:
    """The segments seen so far, as a tree whose nodes name everything from the first token on.

    Args:
        block_size: tokens per KV block.
        chunk_tokens: prompt tokens that one of a request's `hash_ids` stands for (512 in Mooncake traces).
    """

    def __init__(self, block_size: int, chunk_tokens: int) -> None:
        self._block_size = block_size
        self._chunk_tokens = chunk_tokens
        # (parent node, position at which the segment starts, content key): the position is part of the key
        # because a client may have kept only the first tokens of the parent's segment.
        self._nodes: dict[tuple[int, int, int], int] = {}
        self._num_nodes = 0

    def place(self, request: SimRequest) -> None:
        """Find the places of an arriving request's prompt and of its answer to come."""
        source = request._source
        segments: list[tuple[int, int]] = []
        node, start = _ROOT, 0
        for key, tokens in prompt_segments(source, self._chunk_tokens):
            node = self._child(node, start, key)
            start += tokens
            segments.append((start, node))
            if key >= 0 and request._shared_tokens == start - tokens:
                request._shared_tokens = start
        prompt = source.prompt_tokens
        if source.session_id:
            if start < prompt:
                node = self._new_node()
                segments.append((prompt, node))
            segments.append((_NO_END, self._child(node, prompt, answer_key(source.session_id, source.turn))))
        else:  # no other request has the rest of the prompt or the answer
            segments.append((_NO_END, self._new_node()))
        request._segments = segments

    def known_keys(self, prompt: Prompt) -> list[BlockKey]:
        """Return the keys of the leading full blocks of a prompt whose segments were seen; learns nothing."""
        keys: list[BlockKey] = []
        size = self._block_size
        node, start = _ROOT, 0
        for key, tokens in prompt_segments(prompt, self._chunk_tokens):
            known = self._nodes.get((node, start, key))
            if known is None:
                break
            node = known
            start += tokens
            keys.extend((node, index) for index in range(len(keys), start // size))
        return keys

    def keys(self, request: SimRequest, count: int) -> Sequence[BlockKey]:
        """Return the keys of at least the first `count` blocks of a placed request."""
        keys = request._block_keys
        index = len(keys)
        if index >= count:
            return keys
        size = self._block_size
        segments = request._segments
        while index < count:
            last_token = (index + 1) * size
            while segments[0][0] < last_token:
                del segments[0]
            end, node = segments[0]
            stop = min(count, end // size)
            keys.extend([(node, position) for position in range(index, stop)])
            index = stop
        return keys

    def _child(self, node: int, start: int, key: int) -> int:
        place = (node, start, key)
        child = self._nodes.get(place)
        if child is None:
            child = self._nodes[place] = self._new_node()
        return child

    def _new_node(self) -> int:
        self._num_nodes += 1
        return self._num_nodes
