"""The test at start: before a policy gets a scheduler, SGLang's own retraction loop must obey an order.

It needs no model and touches nothing of the server: a batch in miniature, four made-up requests, and memory
for two of them. The hooks are the ones in place, so a version of SGLang that takes its victims elsewhere,
asks in another way or answers something else is found out here, whatever its number says.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from bidkv.adapters.sglang.expectations import find_unexpected_scheduler

if TYPE_CHECKING:
    from bidkv.adapters.sglang.glue import SglangGlue
    from bidkv.adapters.sglang.hooks import Hooks

_ROOM = 2
"""Requests of the miniature that fit its memory."""

_OUTPUT_TOKENS = (5, 9, 3, 7)
"""What its requests have generated: no two alike, so SGLang's own order is clear."""


class TrialError(Exception):
    """SGLang did not do what the adapter needs; the message says what it did."""


class _TrialGlue:
    """Stands in for the glue while the miniature is retracted, and notes what it is told."""

    def __init__(self, *, reverses: bool) -> None:
        self.engine = self
        self.running: Any = None
        self.retracted: list[tuple[str, int]] = []
        self.left_early: list[str] = []
        self._reverses = reverses

    def runs_now(self, batch: Any) -> None:
        self.running = batch

    def computed_tokens(self, reqs: Sequence[Any]) -> dict[str, int]:
        return {req.rid: len(req.output_ids) for req in reqs}

    def retraction_order(self, reqs: Sequence[Any], upstream: Sequence[int]) -> list[int]:
        return list(reversed(upstream)) if self._reverses else list(upstream)

    def preempted(self, reqs: Sequence[Any], computed: dict[str, int]) -> None:
        self.retracted += [(req.rid, computed[req.rid]) for req in reqs]

    def left(self, req: Any, *, completed: bool) -> None:
        self.left_early.append(req.rid)

    def restore_queue(self) -> None:
        """There is no queue in a trial."""


def find_mismatch(scheduler: Any, hooks: Hooks) -> str | None:
    """Return why this SGLang cannot be trusted with a policy, or None.

    Args:
        scheduler: SGLang's, fully made; it is looked at and left alone.
        hooks: those of this process, applied, with no glue attached.
    """
    problem = find_unexpected_scheduler(scheduler)
    if problem is not None:
        return problem
    try:
        own = _retract(hooks, None)
        _check(own, _retract(hooks, glue := _TrialGlue(reverses=False)), glue)
        order = _own_order()
        expected = [order[0], order[1]]
        _check(expected, _retract(hooks, glue := _TrialGlue(reverses=True)), glue)
    except TrialError as error:
        return str(error)
    except Exception as error:
        return f"the self-test ended with {type(error).__name__}: {error}"
    finally:
        hooks.glue = None
    return None


def _check(expected: list[str], released: list[str], glue: _TrialGlue) -> None:
    if released != expected:
        raise TrialError(f"{expected} were named, SGLang retracted {released}")
    told = [name for name, _ in glue.retracted]
    if told != expected or glue.left_early or glue.running is None:
        raise TrialError(f"SGLang retracted {released}, and {told} were told")


def _own_order() -> list[str]:
    """Return the requests as SGLang would keep them, first the one it would keep longest."""
    from sglang.srt.managers.schedule_batch import ScheduleBatch

    reqs = _make_requests()
    return [reqs[index].rid for index in ScheduleBatch._get_decode_retraction_order(reqs)]


def _retract(hooks: Hooks, glue: _TrialGlue | None) -> list[str]:
    """Have a new miniature retracted under a glue; return the requests in the order they were released."""
    from sglang.srt.managers.schedule_batch import ScheduleBatch

    hooks.glue = cast("SglangGlue | None", glue)
    batch = _make_batch()
    # Our own hook around SGLang's function: hooks of other plugins have no part in the trial.
    answer = hooks.retract_decode(inspect.unwrap(ScheduleBatch.retract_decode), batch)
    retracted, ratio, aborted = answer
    if [req.rid for req in retracted] != batch.bidkv_released or aborted or not 0 <= ratio <= 1:
        raise TrialError(f"retract_decode answered {answer!r:.200}")
    return list(batch.bidkv_released)


class _WithoutTensors:
    """Goes before SGLang's batch in a class's bases: what would free memory is noted."""

    reqs: list[Any]
    bidkv_released: list[str]

    def check_decode_mem(self, *args: Any, selected_indices: Sequence[int], **kwargs: Any) -> bool:
        """Whether those that are kept fit."""
        return len(selected_indices) <= _ROOM

    def release_req(self, index: int, *args: Any, **kwargs: Any) -> bool:
        """Note whose memory is released."""
        self.bidkv_released.append(self.reqs[index].rid)
        return True

    def filter_batch(self, *args: Any, keep_indices: Sequence[int], **kwargs: Any) -> None:
        """Keep these requests."""
        self.reqs = [self.reqs[index] for index in keep_indices]


def _make_batch() -> Any:
    from sglang.srt.managers.schedule_batch import ScheduleBatch

    batch: Any = object.__new__(type("Miniature", (_WithoutTensors, ScheduleBatch), {}))
    batch.reqs = _make_requests()
    batch.bidkv_released = []
    return batch


def _make_requests() -> list[Any]:
    return [
        SimpleNamespace(
            rid=f"trial-{number}",
            origin_input_ids=[5] * 8,
            output_ids=[7] * tokens,
            sampling_params=SimpleNamespace(max_new_tokens=16),
            beam_group=None,
            priority=None,
            to_finish=None,
            finished=lambda: False,
        )
        for number, tokens in enumerate(_OUTPUT_TOKENS)
    ]
