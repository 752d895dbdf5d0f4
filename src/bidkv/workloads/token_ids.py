"""Token ids for prompts: equal content gives equal tokens, and everything else is drawn at random."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.simulator.content import answer_key
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS

LOWEST_TOKEN = 10
"""Smallest token id that is drawn; lower ids are control tokens in most vocabularies."""


def require_vocabulary(vocabulary: int) -> None:
    """Raise ValueError unless there are token ids to draw from."""
    if vocabulary <= LOWEST_TOKEN:
        raise ValueError(f"vocabulary must be above {LOWEST_TOKEN}, got {vocabulary}")


def prompt_source(vocabulary: int, salt: str) -> Callable[[WorkloadRequest], list[int]]:
    """Return a function from a single request to its prompt: equal hash ids give equal chunks.

    Args:
        vocabulary: token ids are below this.
        salt: another salt gives other tokens, so that two runs share no prefix in a server's cache.
    """
    ids = range(LOWEST_TOKEN, vocabulary)

    @lru_cache(maxsize=4096)
    def chunk(hash_id: int) -> list[int]:
        return Random(f"{salt}:chunk:{hash_id}").choices(ids, k=HASH_CHUNK_TOKENS)

    def prompt(request: WorkloadRequest) -> list[int]:
        shared = [token for hash_id in request.hash_ids for token in chunk(hash_id)][: request.prompt_tokens]
        rest = request.prompt_tokens - len(shared)
        return shared + Random(f"{salt}:{request.request_id}").choices(ids, k=rest)

    return prompt


class ConversationTokens:
    """The tokens of sessions in closed loop: each prompt repeats the session's past, real answers included.

    Only the tokens of live sessions are kept.

    Args:
        vocabulary: token ids are below this.
        salt: another salt gives other tokens.

    Raises:
        ValueError: a vocabulary too small to draw from.
    """

    def __init__(self, vocabulary: int, salt: str) -> None:
        require_vocabulary(vocabulary)
        self._ids = range(LOWEST_TOKEN, vocabulary)
        self._salt = salt
        self._segments: dict[str, dict[int, array[int]]] = {}

    def write_prompt(self, request: WorkloadRequest) -> list[int]:
        """Return the prompt of a turn, by the segments of its `content`.

        Answers that were kept (:meth:`keep_answer`) stand as the engine gave them; other segments are drawn,
        equal keys alike in every session.
        """
        segments = self._segments.setdefault(request.session_id, {})
        prompt: list[int] = []
        for key, tokens in request.content:
            segment = segments.get(key)
            if segment is None:
                segment = segments[key] = array("l", self.draw(key, tokens))
            prompt.extend(segment[:tokens])
        return prompt

    def draw(self, key: int, tokens: int) -> list[int]:
        """Return the ids of a segment's `tokens` tokens; equal keys have equal ones, shorter or longer."""
        return Random(f"{self._salt}:{key}").choices(self._ids, k=tokens)

    def keep_answer(self, request: WorkloadRequest, tokens: Sequence[int]) -> None:
        """Take the answer to a turn into the past of its session.

        Args:
            request: the turn.
            tokens: ids of the answer's tokens, as the engine gave them.
        """
        key = answer_key(request.session_id, request.turn)
        self._segments.setdefault(request.session_id, {})[key] = array("l", tokens)

    def forget(self, session_id: str) -> None:
        """The session is over: its tokens are not needed any more."""
        self._segments.pop(session_id, None)
