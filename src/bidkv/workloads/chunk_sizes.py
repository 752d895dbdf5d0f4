"""Hash ids of one chunk size turned into those of another, with the same sharing."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import count


class ChunkConverter:
    """Names the chunks of one size by the chunks of another that they are made of.

    Two prompts share a converted chunk exactly where they shared all of what it covers. A chunk that ids
    cover in part gets a name of its own in every prompt.

    Args:
        tokens_from: prompt tokens that a given id stands for.
        tokens_to: prompt tokens that a returned id stands for; one must be a multiple of the other.

    Raises:
        ValueError: neither size is a multiple of the other.
    """

    def __init__(self, tokens_from: int, tokens_to: int) -> None:
        if tokens_from % tokens_to and tokens_to % tokens_from:
            raise ValueError(
                f"expected one size of chunks to be a multiple of the other, found {tokens_from} and "
                f"{tokens_to} tokens"
            )
        self._from = tokens_from
        self._to = tokens_to
        self._names: dict[Hashable, int] = {}
        self._fresh: Iterator[int] = count()

    def convert(self, ids: Sequence[int], prompt_tokens: int) -> tuple[int, ...]:
        """Return the ids of a prompt's chunks of the new size; no more than `ids` cover.

        Args:
            ids: of the prompt's leading chunks of the old size, in order.
            prompt_tokens: its length; the last chunk may be partial.
        """
        if self._from == self._to:
            return tuple(ids)
        covered = min(len(ids) * self._from, prompt_tokens)
        converted: list[int] = []
        for chunk in range(-(-covered // self._to)):
            if self._to > self._from:
                ratio = self._to // self._from
                parts = ids[chunk * ratio : (chunk + 1) * ratio]
                whole = len(parts) == ratio or covered == prompt_tokens
                key: Hashable = (*converted[-1:], *parts) if whole else None
            else:
                ratio = self._from // self._to
                key = (ids[chunk // ratio], chunk % ratio)
            name = self._names.get(key) if key is not None else None
            if name is None:
                name = next(self._fresh)
                if key is not None:
                    self._names[key] = name
            converted.append(name)
        return tuple(converted)
