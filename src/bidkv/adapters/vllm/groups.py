"""The groups of a model's KV cache, and what each takes and gives back as a request goes on.

A model whose layers keep different things has several groups: full attention keeps every block, a sliding
window or a local chunk gives blocks back as it moves on, a state-space layer holds a state of fixed size. All
groups take their blocks from one pool. vLLM's manager of a group says how many blocks a request needs; this
module asks it, and counts in the same way what the manager is about to give back.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

_BASE = "SingleTypeKVCacheManager"

_ARGUMENTS = frozenset(
    {
        "request_id",
        "num_tokens",
        "new_computed_blocks",
        "total_computed_tokens",
        "num_local_computed_tokens",
        "num_tokens_main_model",
        "apply_admission_cap",
        "prefill_end",
    }
)
"""What a manager may want to know of a request before it says what the request needs."""


class UnknownGroupError(Exception):
    """A manager of a KV cache group asks for what this module cannot tell it."""


class CacheGroup:
    """One group's manager.

    Args:
        manager: vLLM's manager of the group, a `SingleTypeKVCacheManager`.

    Attributes:
        held: the group's blocks of every request, by its id; blocks that were given back are null blocks.
        block_size: tokens in one of its blocks.
        growth_blocks: most blocks that it takes for one token of a request.

    Raises:
        UnknownGroupError: the manager wants to know something that is not in `_ARGUMENTS`.
    """

    def __init__(self, manager: Any) -> None:
        self.held: dict[str, list[Any]] = manager.req_to_blocks
        self.block_size: int = manager.block_size
        self._manager = manager
        self._aligned = getattr(manager, "mamba_cache_mode", "") == "align"
        # One of a state, one for the copy of a shared state, one for a checkpoint.
        self.growth_blocks = 3 if self._aligned else 1
        # Cross attention takes its blocks for the encoder's output at admission, and none later.
        self._never_grows = _is_a(manager, "CrossAttentionManager")
        self._ask: Callable[..., int] | None = None
        if not self._never_grows and _overrides(manager, "get_num_blocks_to_allocate"):
            self._ask = manager.get_num_blocks_to_allocate
            parameters = inspect.signature(manager.get_num_blocks_to_allocate).parameters
            unknown = sorted(set(parameters) - _ARGUMENTS)
            if unknown:
                raise UnknownGroupError(f"{type(manager).__name__} needs to know {', '.join(unknown)}")
            self._wanted = [name for name in parameters if name in _ARGUMENTS]
        self._reference_window: int | None = getattr(manager, "rswa_window", None)
        self.gives_back = (
            not _overrides(manager, "remove_skipped_blocks") and _overrides(manager, "get_num_skipped_tokens")
        ) or (_is_a(manager, "MambaManager") or self._reference_window is not None)

    @property
    def keeps_everything(self) -> bool:
        """Whether it grows as full attention does: a block for every `block_size` tokens, kept to the end."""
        return self._ask is None and not self._never_grows and not self.gives_back

    def count_missing(self, request: Any, tokens: int, end: int) -> int:
        """Blocks that a running request takes.

        Args:
            request: vLLM's request.
            tokens: tokens it computes in the step.
            end: positions that need a place: what is computed then, and the drafts ahead of it.
        """
        if self._never_grows:
            return 0
        request_id = request.request_id
        if self._ask is None:
            return max(0, -(-end // self.block_size) - len(self.held.get(request_id, ())))
        computed = request.num_computed_tokens
        known = {
            "request_id": request_id,
            "num_tokens": end,
            "new_computed_blocks": (),
            "total_computed_tokens": computed,
            "num_local_computed_tokens": computed,
            "num_tokens_main_model": computed + tokens,
            # A manager writes down what it is about to do unless it is asked as for an admission.
            "apply_admission_cap": True,
            "prefill_end": max(request.num_prompt_tokens, request.num_tokens - 1),
        }
        return max(0, self._ask(**{name: known[name] for name in self._wanted}))

    def count_given_back(self, request: Any) -> int:
        """Blocks of a running request that become free before it takes new ones."""
        if not self.gives_back:
            return 0
        blocks = self.held.get(request.request_id, ())
        # What steps in flight may still read stays; a version without the count gives back at once.
        processed = max(0, request.num_computed_tokens - getattr(request, "num_in_flight_tokens", 0))
        if self._reference_window is not None:
            prompt = request.num_prompt_tokens
            first = -(-prompt // self.block_size)
            last = max(prompt, processed - self._reference_window) // self.block_size
            return _count_alone(blocks, first, min(last, len(blocks)))
        last = min(self._manager.get_num_skipped_tokens(processed) // self.block_size, len(blocks))
        if not self._aligned:
            return _count_alone(blocks, 0, last)
        return self._count_old_states(request.request_id, blocks, last, processed)

    def _count_old_states(self, request_id: str, blocks: Sequence[Any], last: int, processed: int) -> int:
        """Count states that nothing starts from any more; null blocks lie between them."""
        manager = self._manager
        # Versions that do not write down how far they have come stop at the first null block.
        retired = getattr(manager, "_num_retired_blocks", None)
        if retired is None:
            count = _count_alone(blocks, 0, last)
        else:
            first = retired.get(request_id, 0)
            count = sum([block.ref_cnt == 1 for block in blocks[first:last] if not block.is_null])
        previous = manager.last_state_block_idx.get(request_id)
        if previous is not None and max(0, last) <= previous < -(-processed // self.block_size) - 1:
            block = blocks[previous]
            count += not block.is_null and block.ref_cnt == 1
        return count

    def count_freed(self, request_id: str) -> int:
        """Blocks that nobody else holds: preempting the request frees them."""
        blocks = self.held.get(request_id, ())
        if self.gives_back and not self._aligned and self._reference_window is None:
            return _count_alone(blocks, 0, len(blocks))
        return sum([block.ref_cnt == 1 for block in blocks if not block.is_null])


def read_groups(scheduler: Any) -> list[CacheGroup]:
    """Return the groups of a scheduler's KV cache in vLLM's order.

    Raises:
        UnknownGroupError: a group is managed in a way that is not known here.
    """
    return [CacheGroup(each) for each in scheduler.kv_cache_manager.coordinator.single_type_managers]


def read_block_size(groups: Sequence[CacheGroup]) -> int:
    """Return the tokens of a block in the group that grows without end, or else in the finest group.

    vLLM's own `block_size` is a common multiple of all groups' sizes, which may be the whole context.
    """
    growing = [group.block_size for group in groups if group.keeps_everything]
    return min(growing or [group.block_size for group in groups])


def _count_alone(blocks: Sequence[Any], first: int, last: int) -> int:
    """Count blocks with one holder from `last` down to `first`; beyond a null block all were given back."""
    count = 0
    for position in range(last - 1, first - 1, -1):
        block = blocks[position]
        if block.is_null:
            break
        count += block.ref_cnt == 1
    return count


def _is_a(manager: Any, name: str) -> bool:
    return any(base.__name__ == name for base in type(manager).__mro__)


def _overrides(manager: Any, method: str) -> bool:
    """Whether a class between the manager's own and the base of all managers defines `method`."""
    for base in type(manager).__mro__:
        if base.__name__ == _BASE:
            return False
        if method in vars(base):
            return True
    return False
