"""The budgets of one SGLang prefill batch, from which its admissions draw."""

from __future__ import annotations

from bidkv.simulator.sglang.config import SglangConfig


class PrefillBudget:
    """The budgets of one pass, as SGLang's `PrefillAdder` keeps them (without a prefix cache).

    Args:
        config: the server's options.
        free_tokens: tokens of the pool that no request holds.
        promised_tokens: output tokens that running requests are expected to generate still; a float, as in
            SGLang.
    """

    __slots__ = ("_chunk", "_config", "_free", "_immediate", "_input", "_promised")

    def __init__(self, config: SglangConfig, free_tokens: int, promised_tokens: float) -> None:
        self._config = config
        self._free = free_tokens
        self._promised = promised_tokens
        self._immediate = 0
        self._input = config.max_prefill_tokens
        self._chunk = config.chunked_prefill_size

    @property
    def out_of_memory(self) -> bool:
        """Whether all tokens of the pool are taken or promised."""
        return self._free - self._promised <= 0 or self._free - self._immediate <= 0

    @property
    def spent(self) -> bool:
        """Whether this batch is as large as it may be."""
        return self._input <= 0 or (self._chunk is not None and self._chunk <= 0)

    def fits(self, tokens: int, new_tokens: int) -> bool:
        """Whether a prompt of `tokens` and `new_tokens` of output fit into what is not promised."""
        return tokens + new_tokens + self._config.page_size < self._free - self._promised

    def leaves_free(self, tokens: int) -> int:
        """Tokens of the pool left after a prompt of `tokens`, promises apart."""
        return self._free - self._immediate - self._round_to_pages(tokens)

    def continued_chunk(self, tokens: int) -> int:
        """Tokens of a started prompt that this batch takes; `tokens` are still to come."""
        assert self._chunk is not None
        available = min(self._chunk, int(self._free - self._promised))
        # Even with no tokens left it goes on, since a started prompt holds memory until it ends.
        return min(tokens, available if available > 0 else self._chunk)

    def first_chunk(self, tokens: int, *, alone: bool) -> int:
        """Tokens of a new prompt that this batch takes, 0 when it has to wait for the next one."""
        paged = self._round_to_pages(tokens)
        if self._chunk is None:
            return tokens if alone or paged < self._input else 0
        if paged <= self._chunk:
            return tokens
        return self._chunk // self._config.page_size * self._config.page_size

    def reserve(self, tokens: int, new_tokens: int) -> None:
        """`tokens` are computed in this batch, `new_tokens` of output are promised."""
        paged = self._round_to_pages(tokens)
        self._immediate += paged + self._config.page_size
        self._promised += paged + self._config.page_size + new_tokens
        self._input -= paged
        if self._chunk is not None:
            self._chunk -= paged

    def _round_to_pages(self, tokens: int) -> int:
        size = self._config.page_size
        return -(-tokens // size) * size
