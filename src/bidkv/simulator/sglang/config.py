"""The options of a simulated SGLang, under the real server's names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SglangConfig:
    """Options of one SGLang replica, those that SGLang reads from its environment included.

    The simulated server runs with `--disable-radix-cache`, prefill before decode (no mixed chunks) and no
    overlap schedule, and its requests may stop at an end-of-sequence token.

    Attributes:
        max_total_tokens: KV pool, in tokens.
        page_size: tokens per page of the pool; divides `max_total_tokens`.
        max_running_requests: most requests running at once.
        chunked_prefill_size: prompt tokens of one prefill batch, longer prompts are split; None splits none.
        max_prefill_tokens: prompt tokens after which a prefill batch takes no further request.
        context_length: longest prompt + output of the model; None sets no limit below the pool's.
        schedule_conservativeness: scales the share of outputs that admissions reserve.
        init_new_token_ratio: that share at the start (SGLANG_INIT_NEW_TOKEN_RATIO).
        min_new_token_ratio_factor: it decays to this part of itself (SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR).
        new_token_ratio_decay_steps: decode steps this takes (SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS).
        retract_decode_steps: tokens per request reserved anew after a retraction
            (SGLANG_RETRACT_DECODE_STEPS).
        clip_max_new_tokens: most output tokens reserved for one request
            (SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION).

    Raises:
        ValueError: for a value no server could run with; the message names the field.
    """

    max_total_tokens: int
    page_size: int = 1
    max_running_requests: int = 256
    chunked_prefill_size: int | None = 8192
    max_prefill_tokens: int = 16384
    context_length: int | None = None
    schedule_conservativeness: float = 1.0
    init_new_token_ratio: float = 0.7
    min_new_token_ratio_factor: float = 0.14
    new_token_ratio_decay_steps: int = 600
    retract_decode_steps: int = 20
    clip_max_new_tokens: int = 4096

    def __post_init__(self) -> None:
        minima = {
            "max_total_tokens": 4,
            "page_size": 1,
            "max_running_requests": 1,
            "max_prefill_tokens": 1,
            "new_token_ratio_decay_steps": 1,
            "retract_decode_steps": 0,
            "clip_max_new_tokens": 1,
        }
        for name, least in minima.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
        if self.max_total_tokens % self.page_size:
            raise ValueError(
                f"max_total_tokens must be a multiple of page_size {self.page_size}, "
                f"got {self.max_total_tokens}"
            )
        chunk = self.chunked_prefill_size
        whole = isinstance(chunk, int) and not isinstance(chunk, bool)
        if chunk is not None and (not whole or chunk < self.page_size or chunk % self.page_size):
            raise ValueError(f"chunked_prefill_size must be a multiple of page_size or None, got {chunk!r}")
        length = self.context_length
        if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 4):
            raise ValueError(f"context_length must be an integer >= 4 or None, got {length!r}")
        for name in ("schedule_conservativeness", "init_new_token_ratio", "min_new_token_ratio_factor"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be a number >= 0, got {value!r}")

    @property
    def max_num_seqs(self) -> int:
        """Most requests running at once, by vLLM's name for it."""
        return self.max_running_requests

    @property
    def max_num_batched_tokens(self) -> int:
        """Most prompt tokens of one batch, by vLLM's name for it; one longer prompt may go alone."""
        chunk = self.chunked_prefill_size
        return self.max_prefill_tokens if chunk is None else min(chunk, self.max_prefill_tokens)

    @property
    def block_size(self) -> int:
        """Tokens per page, by vLLM's name for it."""
        return self.page_size

    @property
    def usable_blocks(self) -> int:
        """Pages that requests can hold."""
        return self.max_total_tokens // self.page_size

    @property
    def model_len(self) -> int:
        """Longest sequence the server takes: one token below what it calls its longest request."""
        limit = self.max_total_tokens - 1
        if self.context_length is not None:
            limit = min(limit, self.context_length - 1)
        return limit - 1

    @property
    def longest_prompt(self) -> int:
        """Longest prompt that leaves room for an output token in the empty pool."""
        page = self.page_size
        return min(self.model_len - 1, (self.max_total_tokens - page - 2) // page * page)

    def clip_new_tokens(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """Return the output tokens that the server lets a request have: `max_new_tokens_for_memory`.

        SGLang lowers a request's cap on arrival to what the empty pool could hold, so that it can enter.
        """
        paged = -(-prompt_tokens // self.page_size) * self.page_size
        room = min(self.model_len - prompt_tokens, self.max_total_tokens - paged - self.page_size - 1)
        return max(0, room if max_tokens is None else min(max_tokens, room))

    @property
    def schedules_by_priority(self) -> bool:
        """False: priority scheduling is not simulated."""
        return False

    @property
    def initial_ratio(self) -> float:
        """Share of its output that a running request reserves, before anything has run."""
        return min(self.init_new_token_ratio * self.schedule_conservativeness, 1.0)

    @property
    def least_ratio(self) -> float:
        """The share that it decays to."""
        return min(self.initial_ratio * self.min_new_token_ratio_factor, 1.0)

    @property
    def ratio_decay(self) -> float:
        """How much of it every decode step takes away."""
        return (self.initial_ratio - self.least_ratio) / self.new_token_ratio_decay_steps
