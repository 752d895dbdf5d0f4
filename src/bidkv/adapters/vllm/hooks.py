"""The places in vLLM where this project attaches: a mixin over its schedulers.

No method of it lets an error of this project into the engine: the glue guards its own entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bidkv.adapters.vllm.glue import DetachedGlue, VllmGlue

    class _Scheduler:
        """The methods of vLLM's scheduler that the mixin extends."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...
        def schedule(self, *args: Any, **kwargs: Any) -> Any: ...
        def _enqueue_waiting_request(self, request: Any) -> None: ...
        def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None: ...
        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any: ...
        def _update_request_as_session(self, session: Any, *args: Any, **kwargs: Any) -> Any: ...
        def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool: ...

else:
    _Scheduler = object


class SchedulerHooks(_Scheduler):
    """Goes before vLLM's `Scheduler` or `AsyncScheduler` in a class's bases; tells a glue what happens."""

    _bidkv_glue: VllmGlue | DetachedGlue

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule one step with the policy's victims, admissions and reserve."""
        glue = self._bidkv_glue
        glue.begin_pass()
        output = None
        try:
            output = super().schedule(*args, **kwargs)
        finally:
            glue.end_pass(output)
        return output

    def _enqueue_waiting_request(self, request: Any) -> None:
        super()._enqueue_waiting_request(request)
        self._bidkv_glue.arrived(request)

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        lost_tokens = request.num_computed_tokens
        self._bidkv_glue.about_to_preempt(request)
        super()._preempt_request(request, *args, **kwargs)
        self._bidkv_glue.preempted(request, lost_tokens)

    def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._free_request(request, *args, **kwargs)
        self._bidkv_glue.finished(request)
        return result

    def _update_request_as_session(self, session: Any, *args: Any, **kwargs: Any) -> Any:
        result = super()._update_request_as_session(session, *args, **kwargs)
        self._bidkv_glue.took_turn(session)
        return result

    def reset_prefix_cache(self, *args: Any, **kwargs: Any) -> bool:
        """Throw the prefix cache away; the engine calls it for its own endpoint and before it sleeps."""
        was_reset = super().reset_prefix_cache(*args, **kwargs)
        if was_reset:
            self._bidkv_glue.cache_was_reset()
        return was_reset
