"""What prompts and answers are made of: segments of tokens under content keys, without any token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Protocol


class Prompt(Protocol):
    """What of a request names its prompt's content; workload and arriving requests alike."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""

    @property
    def hash_ids(self) -> tuple[int, ...]:
        """Content ids of the leading chunks."""

    @property
    def content(self) -> tuple[tuple[int, int], ...]:
        """The prompt as (content key, tokens), or () where only `hash_ids` tell."""


_TURN_BITS = 20
"""Turns of one session that have keys of their own: 2**19, far beyond any conversation."""


def prompt_key(session_id: str, turn: int) -> int:
    """Return the content key of what a session's client adds in a turn (0-based)."""
    return _session_key(session_id) - 2 * turn


def answer_key(session_id: str, turn: int) -> int:
    """Return the content key of a session's answer in a turn (0-based)."""
    return _session_key(session_id) - 2 * turn - 1


@lru_cache(maxsize=4096)
def _session_key(session_id: str) -> int:
    # Negative, so that it never equals one of a trace's hash ids; the same in every process.
    digest = blake2b(session_id.encode(), digest_size=5).digest()
    return -1 - (int.from_bytes(digest) << _TURN_BITS)


def prompt_segments(request: Prompt, chunk_tokens: int) -> Iterator[tuple[int, int]]:
    """Yield (content key, tokens) of the leading part of a prompt that other prompts may share.

    Args:
        request: its `content`, or where it has none its `hash_ids`.
        chunk_tokens: tokens that one hash id stands for.
    """
    left = request.prompt_tokens
    for key, tokens in request.content or ((hash_id, chunk_tokens) for hash_id in request.hash_ids):
        if left <= 0:
            return
        yield key, min(tokens, left)
        left -= tokens
