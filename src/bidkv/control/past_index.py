"""Finds the session of a request whose client named none: by the past that the request repeats."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from bidkv.control.tracked_session import TrackedSession


class PastIndex:
    """Sessions between two turns, by the keys of the blocks with which their last turn ended.

    Two keys name a session: that of its last full block, and that of the last full block of its prompt, since
    templates drop the reasoning of earlier answers. A key names the content of its block and of everything
    before it, so a request repeats the whole past if one of its own keys is listed. Sessions stay listed
    after their blocks are gone: the next turn is still theirs.

    Args:
        most_sessions: sessions that are listed; the one listed first is forgotten beyond that.
    """

    def __init__(self, most_sessions: int) -> None:
        self._most_sessions = most_sessions
        self._by_key: dict[Hashable, TrackedSession] = {}
        self._keys: OrderedDict[TrackedSession, tuple[Hashable, ...]] = OrderedDict()

    def __len__(self) -> int:
        """Number of sessions listed."""
        return len(self._keys)

    def add(self, session: TrackedSession, keys: Sequence[Hashable], prompt_blocks: int) -> None:
        """List a session whose turn ended.

        Args:
            session: it must not be listed.
            keys: of the full blocks of its past, in order; with none it cannot be found.
            prompt_blocks: how many of them hold nothing but the prompt.
        """
        if not keys:
            return
        ends = (keys[-1],) if not 0 < prompt_blocks < len(keys) else (keys[-1], keys[prompt_blocks - 1])
        # Where two sessions ended alike, a request that goes on belongs to the later one.
        self._by_key.update(dict.fromkeys(ends, session))
        self._keys[session] = ends
        if len(self._keys) > self._most_sessions:
            self.remove(next(iter(self._keys)))

    def remove(self, session: TrackedSession) -> None:
        """Take a session off the list, if it is on it."""
        for key in self._keys.pop(session, ()):
            if self._by_key.get(key) is session:
                del self._by_key[key]

    def find(self, keys: Sequence[Hashable]) -> TrackedSession | None:
        """Return the session with the longest past that `keys` repeat, or None; O(keys)."""
        by_key = self._by_key
        if not by_key:
            return None
        for key in reversed(keys):
            session = by_key.get(key)
            if session is not None:
                return session
        return None
