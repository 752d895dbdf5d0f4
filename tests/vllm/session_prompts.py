"""Prompts of turns for a real engine: the past with the tokens it really got, then tokens of new content."""

from __future__ import annotations

from itertools import count

from vllm.v1.request import Request

from bidkv.protocol.requests import WorkloadRequest

_TOKENS_PER_KEY = 100_000
"""Tokens of different content are different numbers."""


class SessionPrompts:
    """Writes the prompts of sessions in closed loop; equal content keys get equal tokens."""

    def __init__(self) -> None:
        self._bases = count(_TOKENS_PER_KEY, _TOKENS_PER_KEY)
        self._base_of_key: dict[int, int] = {}
        self._contexts: dict[str, list[int]] = {}

    def new_content(self) -> int:
        """Return the first token id of content that nothing else has."""
        return next(self._bases)

    def write(self, turn: WorkloadRequest, new_tokens: int) -> list[int]:
        """Return the prompt of a turn, whose last `new_tokens` tokens are not its session's past."""
        past = turn.prompt_tokens - new_tokens
        prompt = self._contexts.get(turn.session_id, [])[:past]
        assert len(prompt) == past
        position = 0
        for key, tokens in turn.content:
            if position >= past:
                if key not in self._base_of_key:
                    self._base_of_key[key] = self.new_content()
                base = self._base_of_key[key]
                prompt += range(base, base + tokens)
            position += tokens
        assert len(prompt) == turn.prompt_tokens
        return prompt

    def keep(self, turn: WorkloadRequest, request: Request) -> None:
        """A turn has left: its prompt and its answer are the past of the next one."""
        assert request.prompt_token_ids is not None
        self._contexts[turn.session_id] = [*request.prompt_token_ids, *request.output_token_ids]
