"""Content nodes for the compiled kernel: `ContentTree` without block keys, which the kernel makes itself."""

from __future__ import annotations

from array import array
from typing import NamedTuple

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.content import Prompt, answer_key, prompt_segments

Place = tuple[int, int, int]
"""(parent node, position in tokens at which the segment starts, content key)"""


class Placed(NamedTuple):
    """An arriving request's places in the tree of content.

    Attributes:
        ends: of its prompt's segments, in tokens from the prompt's start.
        nodes: of the same segments.
        last_node: of everything behind them.
        shared_tokens: leading prompt tokens under hash ids: other sessions may have them too.
    """

    ends: array[int]
    nodes: array[int]
    last_node: int
    shared_tokens: int


class _Past:
    """What is known of a live session's context."""

    __slots__ = ("content", "ends", "node", "nodes", "own", "shared_tokens")

    def __init__(self, root: int) -> None:
        self.content: tuple[tuple[int, int], ...] = ()
        self.ends = array("q")
        self.nodes = array("q")
        self.node = root
        self.shared_tokens = 0
        # The session's own content: no other session can come to these places.
        self.own: dict[Place, int] = {}


class ContentIndex:
    """The segments seen so far, as a tree whose nodes name everything from the first token on.

    Args:
        chunk_tokens: prompt tokens that one of a request's `hash_ids` stands for.
        forgets_sessions: whether content with negative keys is one session's own and ends with it, as in what
            a :class:`bidkv.simulator.SessionSource` makes.
    """

    ROOT = 1
    UNKNOWN = 0

    FIRST_SWEEP = 20_000
    """Shared places from which on unused ones are looked for; some 4 MB."""

    def __init__(self, chunk_tokens: int, *, forgets_sessions: bool) -> None:
        self._chunk_tokens = chunk_tokens
        self._forgets = forgets_sessions
        self._shared: dict[Place, int] = {}
        self._pasts: dict[str, _Past] = {}
        self._last_node = self.ROOT
        self._next_sweep = self.FIRST_SWEEP

    def place(self, request: WorkloadRequest) -> Placed:
        """Find the places of an arriving request's prompt and of its answer to come.

        The arrays returned may change with the next call.
        """
        session_id = request.session_id
        if not session_id:
            ends, nodes, _, shared = self._walk(request, self._shared)
            return Placed(ends, nodes, self._new_node(), shared)
        past = self._pasts.get(session_id)
        if past is None:
            past = _Past(self.ROOT)
            if not self._forgets:
                past.own = self._shared
            self._pasts[session_id] = past
        self._extend(past, request)
        node, prompt = past.node, request.prompt_tokens
        ends, nodes = past.ends, past.nodes
        if (ends[-1] if ends else 0) < prompt:  # the content does not tell all of the prompt
            node = self._new_node()
            ends, nodes = ends + array("q", (prompt,)), nodes + array("q", (node,))
        answer = (node, prompt, answer_key(session_id, request.turn))
        return Placed(ends, nodes, self._child(answer, past.own), past.shared_tokens)

    def forget(self, session_id: str) -> None:
        """The session is over: nothing continues it."""
        if self._forgets:
            self._pasts.pop(session_id, None)

    @property
    def is_large(self) -> bool:
        """Whether it is time to :meth:`sweep`."""
        return len(self._shared) >= self._next_sweep

    def sweep(self, used: set[int]) -> None:
        """Forget shared places that nothing leads to: a request that comes there later would find no block.

        Args:
            used: the nodes of cached blocks and of the prompts of live requests; it grows.
        """
        for past in self._pasts.values():
            used.update(past.nodes)
        kept: list[tuple[Place, int]] = []
        for place, node in reversed(self._shared.items()):  # children were added after their parents
            if node in used:
                used.add(place[0])
                kept.append((place, node))
        self._shared.clear()
        self._shared.update(reversed(kept))
        self._next_sweep = max(self.FIRST_SWEEP, 2 * len(kept))

    def find(self, prompt: Prompt) -> tuple[array[int], array[int]]:
        """Return the ends and the nodes of a prompt's leading segments that were seen; learns nothing."""
        ends, nodes = array("q"), array("q")
        node, start = self.ROOT, 0
        for key, tokens in prompt_segments(prompt, self._chunk_tokens):
            known = self._shared.get((node, start, key))
            if known is None:
                break
            node = known
            start += tokens
            ends.append(start)
            nodes.append(node)
        return ends, nodes

    def _extend(self, past: _Past, request: WorkloadRequest) -> None:
        """Bring what is known of a session's context to the prompt of its next turn."""
        content = request.content
        known = len(past.content)
        if not known or content[:known] != past.content:
            past.ends, past.nodes, past.node, past.shared_tokens = self._walk(request, past.own)
        else:
            start = past.ends[-1]
            for key, tokens in content[known:]:
                if start >= request.prompt_tokens:
                    break
                places = self._shared if key >= 0 else past.own
                past.node = self._child((past.node, start, key), places)
                is_shared = key >= 0 and past.shared_tokens == start
                start = min(start + tokens, request.prompt_tokens)
                past.shared_tokens = start if is_shared else past.shared_tokens
                past.ends.append(start)
                past.nodes.append(past.node)
        past.content = content if len(content) == len(past.ends) else ()

    def _walk(
        self, request: WorkloadRequest, own: dict[Place, int]
    ) -> tuple[array[int], array[int], int, int]:
        """Return ends and nodes of a prompt's segments, the last node, and the leading tokens of hash ids."""
        ends, nodes = array("q"), array("q")
        node, start, shared = self.ROOT, 0, 0
        for key, tokens in prompt_segments(request, self._chunk_tokens):
            node = self._child((node, start, key), self._shared if key >= 0 else own)
            if key >= 0 and shared == start:
                shared += tokens
            start += tokens
            ends.append(start)
            nodes.append(node)
        return ends, nodes, node, shared

    def _child(self, place: Place, places: dict[Place, int]) -> int:
        node = places.get(place)
        if node is None:
            node = places[place] = self._new_node()
        return node

    def _new_node(self) -> int:
        self._last_node += 1
        return self._last_node
