"""SGLang's real scheduler without a model: real queues, batches, pools and trees, tokens from a function.

:class:`ModelFreeScheduler` is SGLang's `Scheduler` with everything that schedules left as it is and
everything that computes or talks left out. Import only after `shims.install()`.
"""

from array import array
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import torch
from sglang.srt import runtime_context
from sglang.srt.disaggregation.utils import DisaggregationMode
from sglang.srt.managers.prefill_delayer import RecentPrefillBatchSizeTracker
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req, ScheduleBatch
from sglang.srt.managers.schedule_policy import SchedulePolicy
from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.managers.scheduler_components.new_token_ratio_tracker import NewTokenRatioTracker
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.common import checkpoint_kv_cache, release_kv_cache
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixCache
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
from tiny_model import CONTEXT_LENGTH, VOCABULARY, write_config

MODEL_CONFIG = SimpleNamespace(
    vocab_size=VOCABULARY,
    is_encoder_decoder=False,
    is_multimodal=False,
    head_dim=2,
    num_hidden_layers=1,
    get_num_kv_heads=lambda tensor_parallel_size: 1,
)


def publish_arguments(folder: Path, **arguments) -> None:
    """Make SGLang's process-wide configuration; the last call wins."""
    write_config(folder)
    defaults = {
        "model_path": str(folder),
        "device": "cpu",
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "attention_backend": "torch_native",
        "sampling_backend": "pytorch",
        "dtype": "float32",
        "grammar_backend": "none",
        "disable_cuda_graph": True,
        "pp_max_micro_batch_size": 1024,  # the request pool is the tighter limit, as on one device
    }
    server_args = ServerArgs(**{**defaults, **arguments})
    ranks = runtime_context.SpawnRanks(world_rank=0, gpu_id=0, dp_rank=None)
    runtime_context.publish(server_args, role="scheduler", ranks=ranks)


def pools(tokens: int, page_size: int, max_running: int):
    rows = ReqToTokenPool(max_running, CONTEXT_LENGTH, "cpu", False)
    kv = MHATokenToKVPool(tokens, page_size, torch.float32, 1, 2, 1, "cpu", False)
    if page_size == 1:
        allocator = TokenToKVPoolAllocator(tokens, torch.float32, "cpu", kv, False)
    else:
        allocator = PagedTokenToKVPoolAllocator(tokens, page_size, torch.float32, "cpu", kv, False)
    return rows, allocator


def make_tree(kind: str, rows, allocator, page_size: int):
    """`kind`: "radix", "unified-python", "unified-rust" or "disabled" (as `--disable-radix-cache` builds)."""
    params = CacheInitParams(
        disable=kind == "disabled",
        req_to_token_pool=rows,
        token_to_kv_pool_allocator=allocator,
        page_size=page_size,
        tree_components=(ComponentType.FULL,),
        tree_core_backend="rust" if kind == "unified-rust" else "python",
    )
    return RadixCache(params) if kind == "radix" else UnifiedRadixCache(params)


def make_req(
    rid: str, prompt: list[int], max_new_tokens: int, *, ignore_eos=True, priority=None, custom=None
) -> Req:
    sampling = SamplingParams(
        max_new_tokens=max_new_tokens, ignore_eos=ignore_eos, temperature=0.0, custom_params=custom
    )
    sampling.normalize(None)
    req = Req(
        rid, "", array("q", prompt), sampling, vocab_size=VOCABULARY, eos_token_ids={2}, priority=priority
    )
    req.tokenizer = None
    return req


_SWITCHED_OFF = [
    "enable_decode_hicache",
    "enable_fpm",
    "enable_hicache_storage",
    "enable_hierarchical_cache",
    "enable_hisparse",
    "enable_lmcache",
    "enable_lora",
    "enable_lora_overlap_loading",
    "enable_session_radix_cache",
    "enable_unified_cache_external_linker",
    "enable_unified_memory",
    "is_hybrid_ssm",
    "is_hybrid_swa",
    "require_mlp_sync",
]
_ABSENT = [
    "decode_offload_manager",
    "dllm_config",
    "dynamic_chunk_sizer",
    "hisparse_coordinator",
    "lora_drainer",
    "min_free_slots_delayer",
    "prefill_delayer",
    "truncation_align_size",
]


class ModelFreeScheduler(Scheduler):
    """The real `Scheduler`; `step()` is one turn of its event loop, with tokens made up.

    Args:
        tokens: KV pool size.
        tree: see :func:`make_tree`.
        overlap: decide the next batch before the last one's tokens are in, as SGLang's overlap loop does.
    """

    def __init__(
        self,
        *,
        tokens: int,
        tree: str = "unified-rust",
        page_size: int = 1,
        max_running: int = 16,
        chunked_prefill_size: int | None = None,
        max_prefill_tokens: int = 16384,
        policy: str = "fcfs",
        priority_scheduling: bool = False,
        mixed_chunk: bool = False,
        overlap: bool = False,
    ):
        rows, allocator = pools(tokens, page_size, max_running)
        self.page_size = page_size
        self.req_to_token_pool = rows
        self.token_to_kv_pool_allocator = allocator
        self.tree_cache = make_tree(tree, rows, allocator, page_size)
        self.max_total_num_tokens = tokens
        self.max_running_requests = max_running
        self.max_req_len = min(CONTEXT_LENGTH - 1, tokens - 1)
        self.max_new_tokens_limit = self.sliding_window_size = None
        self.kv_shard_widening = 1
        self.max_prefill_tokens = max_prefill_tokens
        self.chunked_prefill_size = chunked_prefill_size
        self.is_mixed_chunk = mixed_chunk and chunked_prefill_size is not None
        self.enable_overlap = overlap
        self.enable_priority_scheduling = priority_scheduling
        self.enable_priority_preemption = priority_scheduling
        self.schedule_low_priority_values_first = False
        self.priority_scheduling_preemption_threshold = 0
        self.abort_on_priority_when_disabled = False
        self.policy = SchedulePolicy(policy, self.tree_cache, False, priority_scheduling, False)
        self.new_token_ratio_tracker = NewTokenRatioTracker.from_config()
        self._leave_out_what_does_not_schedule()
        self.now = 0
        self.step_log: list[tuple[str, tuple[str, ...]]] = []
        self.token_of = lambda req, position: 3 + (hash((req.rid, position)) % (VOCABULARY - 3))

    def _leave_out_what_does_not_schedule(self) -> None:
        self.batch_result_processor = SimpleNamespace(
            process_batch_result_decode=self._process, process_batch_result_prefill=self._process
        )
        self.metrics_reporter = SimpleNamespace(
            num_retracted_reqs=0,
            enable_metrics=False,
            metrics_collector=None,
            log_batch_result_stats=_nothing,
            update_device_timer=_nothing,
        )
        self.publish_load_snapshot = _nothing
        self.load_publisher = SimpleNamespace(publish_load_stat=_nothing)
        self._record_step_counters = _nothing
        self._maybe_clear_mm_inputs = _nothing
        self.maybe_send_health_check_signal = _nothing
        self.scheduler_stage_metrics = _NoStageMetrics()
        self.model_config = MODEL_CONFIG
        self.spec_algorithm = SpeculativeAlgorithm.NONE
        self.disaggregation_mode = DisaggregationMode.NULL
        self.dp_tp_group = SimpleNamespace(rank_in_group=0, world_size=1)
        self.device = "cpu"
        self.max_queued_requests = None
        self.processed_tokens_counter = 0
        self.forward_ct = 0
        self.chunked_req = None
        self._pending_chunked_abort_req = None
        self.running_batch = ScheduleBatch(reqs=[], batch_is_full=False)
        self.last_batch = None
        self.waiting_queue = []
        self.result_queue = deque()
        self.enable_skip_finishing_decode = self.enable_overlap
        self.enable_continuous_input_polling = False
        for name in _SWITCHED_OFF:
            setattr(self, name, False)
        for name in _ABSENT:
            setattr(self, name, None)
        self.prefill_bs_tracker = RecentPrefillBatchSizeTracker(window_size=1)
        self.max_prefill_bs = 0
        self.prefill_decode_interval = 0
        self._prefill_decode_interval_remaining = 0
        self.prefill_decode_interval_min_bs = 0
        runner = SimpleNamespace(attn_backend=object(), prefill_aware_swa=False)
        self.tp_worker = SimpleNamespace(model_runner=runner)
        self.grammar_manager = SimpleNamespace(
            grammar_queue=[], has_waiting_grammars=lambda: False, abort_requests=_nothing
        )
        self.beam_coordinator = SimpleNamespace(pending_member_rows=lambda batch: 0, retire_group=_nothing)
        self.dp_attn_adapter = SimpleNamespace(
            maybe_prepare_mlp_sync_batch=lambda batch, need_sync=None: batch,
            maybe_convert_decode_to_extend=lambda batch: batch,
        )
        self.ngram_embedding_manager = SimpleNamespace(
            prepare_for_forward=lambda batch, chunked_req=None: batch
        )
        self.load_inquirer = SimpleNamespace(_get_num_pending_tokens=lambda chunk_deduct=0: 0, get_loads=None)
        self.aborted: list[str] = []
        self.send_abort_output = lambda abort, req: self.aborted.append(req.rid)

    # --- driving ---------------------------------------------------------------------------------
    def submit(self, req: Req) -> None:
        self.init_req_max_new_tokens(req)
        self._add_request_to_queue(req)

    def step(self) -> ScheduleBatch | None:
        """One turn of `event_loop_normal` or `event_loop_overlap`; returns what ran, None when idle."""
        plan = self.get_next_batch_to_run(running_batch=self.running_batch, last_batch=self.last_batch)
        self.running_batch = plan.running_batch
        batch = plan.batch_to_run
        if batch is not None:
            self.forward_ct += 1
            kind = "decode" if batch.forward_mode.is_decode() else "extend"
            self.step_log.append((kind, tuple(req.rid for req in batch.reqs)))
            self.result_queue.append((batch.copy() if self.enable_overlap else batch, None))
        if self.enable_overlap:
            if self.last_batch is not None:
                self._take_in_results()
        elif batch is not None:
            self._take_in_results()
        if batch is None and self.idle():
            self.new_token_ratio_tracker.reset()  # what `on_idle` does to scheduling
        self.last_batch = batch
        self.now += 1
        return batch

    def idle(self) -> bool:
        return (
            not self.waiting_queue
            and self.chunked_req is None
            and self.running_batch.is_empty()
            and (self.last_batch is None or self.last_batch.is_empty())
            and not self.result_queue
        )

    def run(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            self.step()
            if self.idle():
                return
        raise AssertionError(f"still busy after {limit} steps")

    def _take_in_results(self) -> None:
        batch, _ = self.result_queue.popleft()
        self.process_batch_result(batch, None)

    def _process(self, batch: ScheduleBatch, result) -> None:
        """What SGLang's result processor does to requests, pools and tree, without outputs to stream."""
        self.token_to_kv_pool_allocator.free_group_begin()
        decoding = batch.reqs if batch.forward_mode.is_decode() else batch.decoding_reqs or []
        for req in batch.reqs:
            if req.finished() or req.is_retracted:
                continue
            if req in decoding:
                self._append(req)
                if req.finished():
                    release_kv_cache(req, self.tree_cache, checkpoint=True)
            elif req.inflight_middle_chunks > 0:
                req.inflight_middle_chunks -= 1
            else:
                self._append(req)
                if req.finished():
                    release_kv_cache(req, self.tree_cache, checkpoint=True)
                else:
                    checkpoint_kv_cache(req, self.tree_cache)
        self.token_to_kv_pool_allocator.free_group_end()

    def _append(self, req: Req) -> None:
        req.output_ids.append(self.token_of(req, len(req.output_ids)))
        stop = getattr(req, "stop_after", None)
        if stop is not None and len(req.output_ids) >= stop:
            req.finished_reason = FINISH_LENGTH(stop)
            req.finished_len = len(req.output_ids)
        else:
            req.update_finish_state()


def _nothing(*args, **kwargs) -> None:
    pass


class _NoStageMetrics:
    def record(self, stage):
        return nullcontext()

    def __getattr__(self, name):
        return _nothing
