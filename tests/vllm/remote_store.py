"""A KV connector without a worker: a store outside the engine from which computed blocks are loaded.

It keeps the hash of every full block that any request has computed. A request that comes back is offered what
the store has of it. Loads take a few steps, and every so often one fails in the middle. Blocks of a finished
request may be kept from the pool while they are "sent". Set in `kv_connector_extra_config`:

    load_steps: steps a load takes; 0 loads within the step.
    fail_every: of so many loads one fails; 0: none.
    send_steps: steps for which a finished request's blocks are pinned.
    forgets: 1: it keeps nothing, so nothing is ever loaded.
"""

from __future__ import annotations

from typing import Any

from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata
from vllm.v1.outputs import KVConnectorOutput


def remote_store(**options: int) -> KVTransferConfig:
    """The settings of an engine with this connector."""
    return KVTransferConfig(
        kv_connector="RemoteStore",
        kv_connector_module_path=__name__,
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
        kv_connector_extra_config=options,
    )


class RemoteStore(KVConnectorBase_V1):
    """The scheduler's half of the connector; `step_output` plays the worker's."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any = None) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        options = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._load_steps = options.get("load_steps", 2)
        self._fail_every = options.get("fail_every", 0)
        self._send_steps = options.get("send_steps", 0)
        self._forgets = bool(options.get("forgets", 0))
        self._size = vllm_config.cache_config.block_size
        self._stored: set[bytes] = set()
        self._live: dict[str, Any] = {}
        # By request: steps left, and the blocks that will turn out to be broken.
        self._loading: dict[str, tuple[int, set[int]]] = {}
        self._sending: dict[str, int] = {}
        self.num_loads = 0
        self.num_failed_loads = 0
        self.loaded_tokens = 0

    # --- the scheduler's half --------------------------------------------------------------------
    def on_new_request(self, request: Any) -> None:
        self._live[request.request_id] = request

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        found = 0
        while found < len(request.block_hashes) and request.block_hashes[found] in self._stored:
            found += 1
        if not self._load_steps:
            found = min(found, (request.num_tokens - 1) // self._size)  # its last token is computed here
        tokens = max(0, found * self._size - num_computed_tokens)
        return tokens, tokens > 0 and self._load_steps > 0

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        if not num_external_tokens:
            return
        self.num_loads += 1
        self.loaded_tokens += num_external_tokens
        if not self._load_steps:
            return
        broken: set[int] = set()
        if self._fail_every and self.num_loads % self._fail_every == 0:
            (ids,) = blocks.get_block_ids()
            broken.add(ids[len(ids) // 2])
            self.num_failed_loads += 1
        self._loading[request.request_id] = (self._load_steps, broken)

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        for request_id, tokens in scheduler_output.num_scheduled_tokens.items():
            request = self._live[request_id]
            computed = (request.num_computed_tokens + tokens) // self._size
            if not self._forgets:
                self._stored.update(request.block_hashes[:computed])
        return KVConnectorMetadata()

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, None]:
        self._live.pop(request.request_id, None)
        if not self._send_steps or not block_ids:
            return False, None
        self._sending[request.request_id] = self._send_steps
        return True, None

    # --- the worker's half -----------------------------------------------------------------------
    def step_output(self) -> KVConnectorOutput:
        """What the workers report with a step: loads and sends that are over."""
        broken: set[int] = set()
        received: set[str] = set()
        for request_id, (left, blocks) in list(self._loading.items()):
            if left > 1:
                self._loading[request_id] = (left - 1, blocks)
                continue
            del self._loading[request_id]
            received.add(request_id)
            broken |= blocks
        sent = {request_id for request_id, left in self._sending.items() if left <= 1}
        self._sending = {name: left - 1 for name, left in self._sending.items() if name not in sent}
        return KVConnectorOutput(finished_sending=sent, finished_recving=received, invalid_block_ids=broken)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def wait_for_layer_load(self, layer_name: str) -> None:
        raise NotImplementedError

    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def wait_for_save(self) -> None:
        raise NotImplementedError
