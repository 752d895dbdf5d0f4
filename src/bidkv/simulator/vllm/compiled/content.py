"""Content nodes for the compiled kernel: `ContentTree` without block keys, which the kernel makes itself."""

from __future__ import annotations

from array import array

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.content import Prompt, answer_key, prompt_segments

Place = tuple[int, int, int]
"""(parent node, position in tokens at which the segment starts, content key)"""


Placed = tuple["array[int]", "array[int]", int, int]
"""An arriving request's places in the tree of content: the ends of its prompt's segments in tokens from the
prompt's start, their nodes, the node of everything behind them, and the leading prompt tokens under hash ids,
which other sessions may have too. (A plain tuple: a named one costs more than all of the walk here.)
"""


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
            return ends, nodes, self._new_node(), shared
        past = self._pasts.get(session_id)
        if past is None:
            past = _Past(self.ROOT)
            if not self._forgets:
                past.own = self._shared
            self._pasts[session_id] = past
        prompt = request.prompt_tokens
        known_tokens = self._extend(past, request, prompt)
        node, ends, nodes, own = past.node, past.ends, past.nodes, past.own
        if known_tokens < prompt:  # the content does not tell all of the prompt
            node = self._new_node()
            ends, nodes = ends + array("q", (prompt,)), nodes + array("q", (node,))
        answer = (node, prompt, answer_key(session_id, request.turn))
        last_node = own.get(answer)
        if last_node is None:
            last_node = own[answer] = self._last_node = self._last_node + 1
        return ends, nodes, last_node, past.shared_tokens

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

    def _extend(self, past: _Past, request: WorkloadRequest, prompt: int) -> int:
        """Bring what is known of a session's context to its next `prompt`; return the tokens it tells."""
        content, before = request.content, past.content
        known, ends, nodes = len(before), past.ends, past.nodes
        if not known or content[:known] != before:
            past.ends, past.nodes, past.node, past.shared_tokens = self._walk(request, past.own)
            start = past.ends[-1] if past.ends else 0
            past.content = content if len(content) == len(past.ends) else ()
            return start
        start, node, own = ends[-1], past.node, past.own
        for key, tokens in content[known:]:
            if start >= prompt:
                break
            # `_child` and a minimum, written out: this loop runs for every turn.
            place, places = (node, start, key), self._shared if key >= 0 else own
            child = places.get(place)
            if child is None:
                child = places[place] = self._last_node = self._last_node + 1
            node = child
            is_shared = key >= 0 and past.shared_tokens == start
            start += tokens
            if start > prompt:
                start = prompt
            if is_shared:
                past.shared_tokens = start
            ends.append(start)
            nodes.append(node)
        past.node = node
        past.content = content if len(content) == len(ends) else ()
        return start

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
