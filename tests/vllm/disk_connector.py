"""vLLM's example of a KV connector that keeps prompts on disk, mended for requests that were preempted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector


class PromptsOnDisk(ExampleConnector):  # type: ignore[misc]
    """Loads for a request that comes back what it saved of its prompt.

    The example looks for a file of prompt and answer together, which was never written. So vLLM's own
    preemption stops the engine as soon as an answer has begun another block.
    """

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note that `request` loads, and how much of its prompt was found."""
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if request.request_id in self._requests_need_load:
            # The connector takes the whole blocks of all tokens but the last.
            found = (len(request.prompt_token_ids) - 2) // self._block_size * self._block_size
            self._requests_need_load[request.request_id] = SimpleNamespace(
                all_token_ids=request.prompt_token_ids[: found + 1], mm_features=request.mm_features
            )
