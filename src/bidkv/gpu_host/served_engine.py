"""One vLLM engine of this process, stepped by hand: requests in, memory limited, prefix cache emptied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bidkv.policy import resolve
from bidkv.protocol.read_only import write_facts

_DRAIN_STEPS = 20_000
"""Most steps taken to bring an engine to rest after an abort. Asynchronous scheduling needs two or three;
while a KV connector's transfers are in flight, steps are empty and there are many."""


class ServedEngine:
    """A vLLM engine and the parts of it that a replay needs.

    Args:
        engine: an `LLMEngine` whose core lives in this process.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.core = engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.pool = self.scheduler.kv_cache_manager.block_pool
        self.vocabulary: int = engine.vllm_config.model_config.get_vocab_size()
        self.max_model_len: int = engine.vllm_config.model_config.max_model_len
        self.block_size: int = engine.vllm_config.cache_config.block_size

    @property
    def controller(self) -> Any:
        """The adapter's controller; an engine without the adapter has none."""
        return self.scheduler.bidkv.controller

    @property
    def view(self) -> Any:
        """The adapter's view of the engine."""
        return self.scheduler.bidkv.glue.engine

    def submit(
        self,
        request_id: str,
        prompt: Sequence[int],
        output_tokens: int,
        stated: Mapping[str, Any] | None = None,
        *,
        deltas: bool = False,
    ) -> None:
        """Hand one request to the engine; it generates exactly `output_tokens`.

        Args:
            request_id: unique among live requests.
            prompt: token ids.
            output_tokens: the length at which the answer ends.
            stated: what the client says beside the prompt, as in `vllm_xargs`.
            deltas: outputs hold the tokens of one step instead of all so far.
        """
        from vllm.sampling_params import RequestOutputKind

        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=output_tokens,
            ignore_eos=True,
            temperature=0.0,
            detokenize=False,
            extra_args=None if stated is None else dict(stated),
            output_kind=RequestOutputKind.DELTA if deltas else RequestOutputKind.CUMULATIVE,
        )
        self.engine.add_request(request_id, {"prompt_token_ids": list(prompt)}, sampling)

    def switch(self, policy: str) -> None:
        """Put a fresh object of a policy in charge."""
        self.controller.switch(resolve(policy))
        self.controller.policy.name = policy

    def abort(self, request_ids: Sequence[str]) -> None:
        """Abort requests and step until the engine is at rest."""
        if request_ids:
            self.engine.abort_request(list(request_ids))
        for _ in range(_DRAIN_STEPS):
            if not (self.scheduler.has_requests() or getattr(self.core, "batch_queue", None)):
                return
            self.engine.step()

    def empty_prefix_cache(self) -> None:
        """Forget all cached blocks, those of a KV connector included; the engine must be at rest.

        Raises:
            RuntimeError: blocks are still held.
        """
        self.engine.reset_prefix_cache(reset_connector=self.scheduler.connector is not None)
        usable, free = self.pool.num_gpu_blocks - 1, self.pool.get_num_free_blocks()
        if free != usable:
            raise RuntimeError(f"expected {usable} free blocks before a run, found {free}")

    @contextmanager
    def limited_to(self, blocks: int | None) -> Iterator[None]:
        """Let the engine use `blocks` of its blocks (the null block included); None: all of them.

        The others are held by no request, so the engine sees a smaller cache.

        Raises:
            ValueError: the engine has fewer.
        """
        view, pool = self.view, self.pool
        held = 0 if blocks is None else pool.num_gpu_blocks - blocks
        if held < 0:
            raise ValueError(
                f"blocks must be at most {pool.num_gpu_blocks}, which the engine has; got {blocks}"
            )
        pinned = pool.get_new_blocks(held) if held else []
        usable = view.num_blocks
        write_facts(view, num_blocks=pool.num_gpu_blocks - 1 - held)
        try:
            yield
        finally:
            write_facts(view, num_blocks=usable)
            if pinned:
                pool.free_blocks(reversed(pinned))
