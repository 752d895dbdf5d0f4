"""How SGLang must call what this adapter attaches to: the parameters of each method, checked before any hook.

A hook receives what SGLang passes. In a version that passes something else, every call would fail or, worse,
mean something else; so the parameters are compared by name and order when the plugin is installed.
"""

from __future__ import annotations

import inspect
import operator
import pkgutil
import re
from collections.abc import Iterable
from typing import Any

_MANAGERS = "sglang.srt.managers"
SCHEDULER = f"{_MANAGERS}.scheduler.Scheduler"
BATCH = f"{_MANAGERS}.schedule_batch.ScheduleBatch"
POLICY = f"{_MANAGERS}.schedule_policy"
RETRACTION_ORDER = f"{BATCH}._get_decode_retraction_order"
_TREE = "sglang.srt.mem_cache.base_prefix_cache.BasePrefixCache"
REQUIRED = (f"{_TREE}.lock", f"{_TREE}.unlock", f"{SCHEDULER}.collect_inflight_reqs")
"""What the adapter calls besides its targets; in a version of SGLang that lacks it every decision fails."""

NEWEST = "0.5.23"
"""The newest version on which the adapter was tested against the engine itself."""

_READ = (
    "waiting_queue",
    "running_batch.reqs",
    "running_batch.new_tokens_required_next_decode",
    "chunked_req",
    "tree_cache.supports_prefix_sharing",
    "token_to_kv_pool_allocator.available_size",
    "page_size",
    "max_running_requests",
    "max_req_len",
    "max_total_num_tokens",
    "chunked_prefill_size",
    "max_prefill_tokens",
    "enable_priority_scheduling",
    "schedule_low_priority_values_first",
    "grammar_manager.grammar_queue",
    "disaggregation_mode.name",
    "dllm_config",
    "dp_tp_group.rank_in_group",
    "dp_tp_group.world_size",
)
"""What the adapter reads of a scheduler that is fully made."""

_REST = "..."
_PARAMETERS = {
    f"{SCHEDULER}._add_request_to_queue": ("req", "is_retracted"),
    f"{SCHEDULER}._release_aborted_request": ("req",),
    f"{SCHEDULER}.process_batch_result": ("batch", "result"),
    f"{SCHEDULER}.collect_inflight_reqs": (),
    RETRACTION_ORDER: ("reqs",),
    f"{BATCH}.retract_decode": (),
    f"{POLICY}.PrefillAdder.preempt_to_schedule": ("req",),
    f"{POLICY}.PrefillAdder.add_one_req": ("req", _REST),
    f"{POLICY}.SchedulePolicy.calc_priority": ("waiting_queue", "running_batch", "processed_tokens"),
    f"{_TREE}.lock": ("node",),
    f"{_TREE}.unlock": ("lock",),
}
"""By path: the names of the parameters without `self`; after `...` there may be others."""


def find_unexpected(paths: Iterable[str]) -> list[str]:
    """Return what is not as the adapter needs it: a path that is not there, or that takes something else.

    Args:
        paths: every attribute of SGLang that is hooked.
    """
    needed = [*paths, *REQUIRED]
    missing = unresolved(needed)
    changed = [path for path in needed if path not in missing and not _takes_what_is_expected(path)]
    return [
        *(f"it has no {path}" for path in missing),
        *(
            f"{path} takes ({', '.join(_read_parameters(path))}), expected ({', '.join(_PARAMETERS[path])})"
            for path in changed
        ),
    ]


def find_unexpected_scheduler(scheduler: Any) -> str | None:
    """Return the first thing that a scheduler lacks and the adapter reads, or None."""
    for path in _READ:
        try:
            operator.attrgetter(path)(scheduler)
        except AttributeError:
            return f"the scheduler has no {path}"
    return None


def is_newer(version: str) -> bool:
    """Whether a version of SGLang is newer than :data:`NEWEST`; one without a number is not.

    >>> is_newer("0.5.24rc1"), is_newer("0.6"), is_newer("0.5.23.post1"), is_newer("0.5.9"), is_newer("dev")
    (True, True, False, False, False)
    """
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", version)
    newest = tuple(int(part) for part in NEWEST.split("."))
    return found is not None and tuple(int(part or 0) for part in found.groups()) > newest


def unresolved(paths: Iterable[str]) -> list[str]:
    """Return the paths that this version of SGLang does not have."""
    missing = []
    for path in paths:
        owner, _, name = path.rpartition(".")
        try:
            getattr(pkgutil.resolve_name(owner), name)
        except (ImportError, AttributeError):
            missing.append(path)
    return missing


def _takes_what_is_expected(path: str) -> bool:
    expected = _PARAMETERS.get(path)
    if expected is None:
        return True
    found = _read_parameters(path)
    if found[:1] == ["*args"]:
        return True  # another plugin's hook, which passes on what it gets
    if expected[-1:] == (_REST,):
        return found[: len(expected) - 1] == list(expected[:-1])
    return found == list(expected)


def _read_parameters(path: str) -> list[str]:
    owner, _, name = path.rpartition(".")
    signature = inspect.signature(getattr(pkgutil.resolve_name(owner), name))
    return [
        f"*{parameter.name}" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else parameter.name
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
