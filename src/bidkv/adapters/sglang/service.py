"""What surrounds the glue in a real SGLang server: ranks, control file, metrics, decision log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from bidkv.adapters.engine_number import number_engine
from bidkv.adapters.environment import Environment
from bidkv.adapters.service import EngineService
from bidkv.adapters.sglang.engine_view import SglangEngineView
from bidkv.adapters.sglang.expectations import NEWEST, is_newer
from bidkv.adapters.sglang.glue import SglangGlue
from bidkv.adapters.sglang.ranks import BroadcastClock, Message, SyncedClock, poll_nothing
from bidkv.control import DEFAULT_TIME_BUDGET_S
from bidkv.control_file import INTERVAL_S, ControlFile
from bidkv.protocol.policy import EngineView
from bidkv.stability import QueueingConfig

logger = logging.getLogger("bidkv")


class SglangService(EngineService):
    """One scheduler's controller with everything an operator can reach of it.

    Args:
        scheduler: SGLang's `Scheduler`, fully made.
        environment: what the operator asks for; `strategy` is set.
        missing_hooks: targets that do not lead through our hooks; with any, SGLang is left alone.
        problem: what the test at start found; with it SGLang is left alone.
        clock: seconds, monotonic.

    Attributes:
        engine: the scheduler's view.
        glue: carries questions and answers, or None when SGLang is left alone.
    """

    def __init__(
        self,
        scheduler: Any,
        environment: Environment,
        missing_hooks: Sequence[str] = (),
        problem: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._next_look_s = clock()
        self._last_look = {"free_blocks": 0, "running_requests": 0, "waiting_requests": 0}
        self._in_place = not missing_hooks and problem is None
        self._num_failures = 0
        reason = (
            f"these hooks are not in place: {', '.join(missing_hooks)}"
            if missing_hooks
            else problem or _read_unsupported(scheduler)
        )
        leads, size = _read_rank(scheduler)
        environment, self._number = number_engine(scheduler, environment, _read_data_parallel_rank())
        self._synced = _make_clock(scheduler, environment, clock, leads=leads, is_alone=size == 1)
        exports = environment.metrics_port is not None and leads
        super().__init__(
            environment,
            by_priority=bool(scheduler.enable_priority_scheduling),
            max_running=scheduler.max_running_requests,
            clock=clock,
            exports=exports,
            logs=leads and reason is None,
            # A slow moment of one rank must not switch the policy off there alone; the watchdog reports a
            # hang all the same.
            time_budget_s=DEFAULT_TIME_BUDGET_S if size == 1 else math.inf,
        )
        self.engine = SglangEngineView(scheduler, self._synced.now_s)
        self.glue: SglangGlue | None = None
        if reason is None:
            # On every rank alike, although one exports: their books must not differ.
            self.glue = self._attach(watches_sessions=environment.metrics_port is not None)
        else:
            self.controller.disable()
            logger.warning(
                "bidkv: policy %r stays off and SGLang keeps its own rules: %s",
                self.controller.policy_name,
                reason,
            )
        if exports and environment.metrics_port is not None:
            self.metrics = self._export(environment.metrics_port, self._readers())

    def _attach(self, *, watches_sessions: bool) -> SglangGlue:
        """Put the policy in charge, and say so."""
        glue = SglangGlue(
            self._scheduler,
            self.engine,
            self.controller,
            on_arrival=self._synced.arrived,
            watches_sessions=watches_sessions,
        )
        glue.on_pass = self._pass_ended
        self._say_in_charge(type(self._scheduler).__name__)
        _say_newer()
        if glue.no_retention is not None:
            # A missed chance under a policy that drops idle sessions, a remark under any other.
            level = logging.WARNING if self.controller.wants_drops else logging.INFO
            logger.log(level, "bidkv: sessions are left to SGLang's own prefix cache: %s", glue.no_retention)
        return glue

    def _read_queueing_config(self) -> QueueingConfig:
        from sglang.srt.runtime_context import get_parallel

        scheduler = self._scheduler
        model = scheduler.model_config
        return QueueingConfig(
            block_size=scheduler.page_size,
            head_dim=model.head_dim,
            num_kv_heads=model.get_num_kv_heads(get_parallel().attn_tp_size),
            num_layers=model.num_hidden_layers,
            concurrency=scheduler.max_running_requests,
        )

    def dropped(self) -> None:
        """An error of the adapter took the glue out: say so where an operator looks."""
        self.glue = None
        self._in_place = False
        self._num_failures += 1
        self.controller.disable()

    def _pass_ended(self, ran: bool) -> None:
        if ran:
            self._synced.ran()
        self._obey(self._synced.take_command())
        now = self._clock()
        if self.metrics is not None and now >= self._next_look_s:
            self._next_look_s = now + INTERVAL_S
            try:
                self._look(self.engine)
            except Exception:  # of several ranks one looks: it must not leave the others' rule because of it
                self._next_look_s = math.inf
                logger.exception("bidkv: the engine's state cannot be read; its metrics stay as they are")

    def _look(self, engine: EngineView) -> None:
        # Read here, in the scheduler's own thread: the prefix tree may live outside Python and take no
        # questions while it works.
        self._last_look = {
            "free_blocks": engine.free_blocks,
            "running_requests": engine.num_running,
            "waiting_requests": engine.num_waiting,
        }
        super()._look(engine)

    def _readers(self) -> dict[str, Callable[[], float]]:
        """Gauges of this engine; read from the exporter's thread."""
        return {
            "hooks_in_place": lambda: float(self._in_place and self.glue is not None),
            "adapter_failures": lambda: self._num_failures,
            "engine_number": lambda: self._number,
            "total_blocks": lambda: self.engine.num_blocks,
            "free_blocks": lambda: self._last_look["free_blocks"],
            "running_requests": lambda: self._last_look["running_requests"],
            "waiting_requests": lambda: self._last_look["waiting_requests"],
            "floor_blocks": lambda: self.controller.last_reserve_blocks or 0,
        }


def _say_newer() -> None:
    """Warn of a version of SGLang that is newer than all on which the adapter was tested."""
    from sglang import __version__ as version

    if is_newer(str(version)):
        logger.warning(
            "bidkv: SGLang %s is newer than %s, the newest version tested; its self-test passed",
            version,
            NEWEST,
        )


def _read_unsupported(scheduler: Any) -> str | None:
    """Return which part of this server's setup was never shown to work, or None."""
    if scheduler.disaggregation_mode.name != "NULL":
        return "prefill and decode are disaggregated"
    if scheduler.dllm_config is not None:
        return "diffusion models schedule differently"
    from sglang.srt.runtime_context import get_parallel

    if get_parallel().pp_size > 1:
        return "with pipeline parallelism the stages schedule at different times"
    return None


def _read_rank(scheduler: Any) -> tuple[bool, int]:
    """Return whether this rank leads, and how many ranks run this scheduler's batches."""
    group = scheduler.dp_tp_group
    return group.rank_in_group == 0, int(group.world_size)


def _read_data_parallel_rank() -> int:
    from sglang.srt.runtime_context import get_parallel

    return int(get_parallel().dp_rank or 0)


def _make_clock(
    scheduler: Any, environment: Environment, clock: Callable[[], float], *, leads: bool, is_alone: bool
) -> SyncedClock | BroadcastClock:
    """Return the time and the operator's commands: this rank's own, or those of the rank that leads."""
    poll = poll_nothing
    if environment.control_file is not None and leads:
        poll = ControlFile(environment.control_file, clock=clock).poll
    if is_alone:
        return SyncedClock(poll, clock)
    return BroadcastClock(_make_broadcast(scheduler), leads=leads, poll=poll, clock=clock)


def _make_broadcast(scheduler: Any) -> Callable[[Message], Message]:
    import torch.distributed as dist

    group = scheduler.dp_tp_cpu_group
    first = dist.get_global_rank(group, 0)

    def broadcast(message: Message) -> Message:
        carried: list[Message] = [message]
        dist.broadcast_object_list(carried, src=first, group=group)
        return carried[0]

    return broadcast
