"""What the adapter touches in vLLM, checked on a scheduler at hand before a policy gets it.

Every entry is a name that some module of the adapter reads, calls or extends. A version of vLLM that renamed
one of them, or calls a method with other arguments, is found out here in words that name the place.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

QUEUES = ("waiting", "skipped_waiting", "kv_holding_waiting")
"""Every waiting queue a version of vLLM keeps; the policy orders the first, the others hold special cases."""

_EXTENDED = {
    "_enqueue_waiting_request": (("request",), True),
    "_preempt_request": (("request",), False),
    "_free_request": (("request",), False),
    "_update_request_as_session": (("session",), False),
    "reset_prefix_cache": ((), False),
    "schedule": ((), False),
}
"""Methods that the adapter extends: their first parameters after `self`, and whether these are all."""

_CALLED = ("get_request_counts", "finish_requests", "update_from_output", "add_request")

_READ = (
    "running",
    "requests",
    "waiting",
    "policy.value",
    "block_size",
    "max_model_len",
    "max_num_running_reqs",
    "max_num_scheduled_tokens",
    "num_spec_tokens",
    "num_lookahead_tokens",
    "num_sampled_tokens_per_step",
    "scheduler_config.long_prefill_token_threshold",
    "connector",
    "_inflight_prefills",
    "kv_cache_manager.watermark_blocks",
    "kv_cache_manager.enable_caching",
    "kv_cache_manager.block_pool.num_gpu_blocks",
    "kv_cache_manager.block_pool.get_num_free_blocks",
    "kv_cache_manager.coordinator.single_type_managers",
)

_OF_A_GROUP = ("req_to_blocks", "block_size")

_OF_A_REQUEST = (
    "request_id",
    "priority",
    "arrival_time",
    "sampling_params.extra_args",
    "status.name",
    "is_finished",
    "max_tokens",
    "num_tokens",
    "num_prompt_tokens",
    "num_computed_tokens",
    "num_tokens_with_spec",
    "num_output_placeholders",
    "num_preemptions",
    "_output_token_ids",
    "block_hashes",
)

_OF_AN_OUTPUT = ("num_scheduled_tokens", "total_num_scheduled_tokens")


def find_unexpected(scheduler: Any) -> str | None:
    """Return the first thing about a scheduler that is not as the adapter needs it, or None; O(1)."""
    return next(_unexpected(scheduler), None)


def find_unexpected_request(request: Any) -> str | None:
    """Return what one of vLLM's requests lacks, or None."""
    return next(_missing(request, _OF_A_REQUEST, "a request"), None)


def find_unexpected_output(output: Any) -> str | None:
    """Return what the answer of `schedule` lacks, or None."""
    return next(_missing(output, _OF_AN_OUTPUT, "the answer of schedule()"), None)


def _unexpected(scheduler: Any) -> Iterator[str]:
    from vllm.v1.core.sched.request_queue import RequestQueue

    from bidkv.adapters.vllm.queues import WaitingQueue

    yield from _missing(scheduler, (*_EXTENDED, *_CALLED, *_READ), "the scheduler")
    for name, (parameters, are_all) in _EXTENDED.items():
        yield from _other_parameters(scheduler, name, parameters, are_all=are_all)
    managers = scheduler.kv_cache_manager.coordinator.single_type_managers
    for manager in managers:
        yield from _missing(manager, _OF_A_GROUP, "a manager of KV blocks")
    for name in sorted(RequestQueue.__abstractmethods__ - set(dir(WaitingQueue))):
        yield f"a waiting queue must have {name}, which is new"
    for name in sorted(RequestQueue.__abstractmethods__):
        ours, theirs = _parameters(getattr(WaitingQueue, name)), _parameters(getattr(RequestQueue, name))
        if len(ours) != len(theirs):
            yield f"{name} of a waiting queue takes ({', '.join(theirs)}), expected ({', '.join(ours)})"
    for name, value in vars(scheduler).items():
        if isinstance(value, RequestQueue) and name not in QUEUES:
            yield f"the scheduler has a waiting queue {name}, which is new"


def _missing(owner: Any, paths: tuple[str, ...], what: str) -> Iterator[str]:
    for path in paths:
        value = owner
        for name in path.split("."):
            try:
                value = getattr(value, name)
            except AttributeError:
                yield f"{what} has no {path}"
                break


def _other_parameters(
    scheduler: Any, name: str, expected: tuple[str, ...], *, are_all: bool
) -> Iterator[str]:
    found = _parameters(getattr(scheduler, name))
    if found[: len(expected)] != expected or (are_all and len(found) > len(expected)):
        yield f"{name} of the scheduler takes ({', '.join(found)}), expected ({', '.join(expected)})"


def _parameters(function: Any) -> tuple[str, ...]:
    """Return the names of a function's or bound method's parameters without `self`."""
    return tuple(name for name in inspect.signature(function).parameters if name != "self")
