"""What surrounds the glue in a real server: environment, ranks, control file, metrics, decision log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from bidkv.adapters.cycle_watch import LIMIT_CYCLE, CycleWatch
from bidkv.adapters.environment import Environment
from bidkv.adapters.sglang.glue import SchedulerGlue
from bidkv.adapters.sglang.ranks import LocalWord, SharedWord, Word, poll_nothing
from bidkv.adapters.sglang.views import SglangEngine
from bidkv.baselines import ENGINE_ORDER
from bidkv.control import DEFAULT_TIME_BUDGET_S, Controller
from bidkv.control_file import INTERVAL_S, ControlFile, obey
from bidkv.observability.decision_log import DecisionLog
from bidkv.observability.watchdog import PROCESS_WATCHDOG
from bidkv.policy import resolve
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import Policy
from bidkv.stability import QueueingConfig, QueueingController

logger = logging.getLogger("bidkv")


class Service:
    """One scheduler's controller with everything an operator can reach of it.

    Args:
        scheduler: SGLang's `Scheduler`, fully made.
        environment: what the operator asks for; `strategy` is set.
        missing_hooks: targets that do not lead through our hooks; with any, SGLang is left alone.
        clock: seconds, monotonic.

    Attributes:
        controller: asks the policy.
        glue: carries questions and answers, or None when SGLang is left alone.
        metrics: the exporter, or None.
    """

    def __init__(
        self,
        scheduler: Any,
        environment: Environment,
        missing_hooks: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._by_priority = bool(scheduler.enable_priority_scheduling)
        self._clock = clock
        self._next_look_s = clock()
        self._gauges = {"free_blocks": 0, "running_requests": 0, "waiting_requests": 0}
        self._in_place = not missing_hooks
        reason = (
            f"these hooks are not in place: {', '.join(missing_hooks)}"
            if missing_hooks
            else _unsupported(scheduler)
        )
        leads, size = _rank(scheduler)
        poll = poll_nothing
        if environment.control_file is not None and leads:
            poll = ControlFile(environment.control_file, clock=clock).poll
        self._word = (
            LocalWord(poll, clock)
            if size == 1
            else SharedWord(_broadcast(scheduler), leads=leads, poll=poll, clock=clock)
        )
        exports = environment.metrics_port is not None and leads
        policy = self.resolve(environment.strategy or ENGINE_ORDER)
        log = None
        if environment.decision_log is not None and leads and reason is None:
            log = DecisionLog(environment.decision_log, wall_clock=time.time)
        self.controller = Controller(
            policy,
            # One rank's slow moment must not switch the policy off there alone; a hang is reported, too.
            time_budget_s=DEFAULT_TIME_BUDGET_S if size == 1 else math.inf,
            stability=QueueingController(_queueing_config(scheduler), clock=clock) if exports else None,
            observer=log,
        )
        PROCESS_WATCHDOG.watch(self.controller)
        PROCESS_WATCHDOG.start()
        self.engine = SglangEngine(scheduler, self._word.now_s)
        self.glue: SchedulerGlue | None = None
        if reason is None:
            self.glue = SchedulerGlue(scheduler, self.engine, self.controller, on_arrival=self._word.arrived)
            self.glue.on_pass = self._pass_ended
            logger.info("bidkv: policy %r schedules this engine", policy.name)
        else:
            self.controller.disable()
            logger.warning(
                "bidkv: policy %r stays off and SGLang keeps its own rules: %s", policy.name, reason
            )
        self.metrics: Any = None
        self._cycles = CycleWatch(self.controller.counters, scheduler.max_running_requests)
        if exports:
            self.metrics = self._export(environment.metrics_port)

    def resolve(self, spec: str) -> Policy:
        """A policy for this engine: inside user priority classes where SGLang schedules by priority."""
        policy = resolve(spec)
        return WithinClasses(policy) if self._by_priority else policy

    def dropped(self) -> None:
        """An error of the adapter took the glue out: say so where an operator looks."""
        self.glue = None
        self._in_place = False
        self.controller.disable()

    def _pass_ended(self, ran: bool) -> None:
        if ran:
            self._word.ran()
        command = self._word.command()
        if command is not None:
            obey(command, self.controller, self.resolve)
        now = self._clock()
        if self.metrics is not None and now >= self._next_look_s:
            self._next_look_s = now + INTERVAL_S
            self._look()

    def _look(self) -> None:
        # Read here, in the scheduler's own thread: the prefix tree may live outside Python and take no
        # questions while it works.
        engine = self.engine
        free = engine.free_blocks
        self._gauges = {
            "free_blocks": free,
            "running_requests": len(engine.running),
            "waiting_requests": engine.num_waiting,
        }
        if self.controller.stability is not None:
            self.controller.stability.compute_stability_state(free, engine.num_blocks)
        self._cycles.look(self._clock(), len(engine.running))

    def _export(self, port: int | None) -> Any:
        from bidkv.observability.metrics import Gauge, MetricsExporter

        assert port is not None
        gauges = {
            "hooks_in_place": Gauge(
                "1 while this project's hooks in SGLang work, 0 when SGLang is left alone.",
                lambda: float(self._in_place and self.glue is not None),
            ),
            "total_blocks": Gauge("KV pages that requests can hold.", lambda: self.engine.num_blocks),
            "free_blocks": Gauge("KV pages nobody has locked.", lambda: self._gauges["free_blocks"]),
            "running_requests": Gauge("Requests that run.", lambda: self._gauges["running_requests"]),
            "waiting_requests": Gauge("Requests that wait.", lambda: self._gauges["waiting_requests"]),
            "floor_blocks": Gauge(
                "Blocks the last admission had to leave free.",
                lambda: self.controller.last_reserve_blocks or 0,
            ),
            "limit_cycle": Gauge(LIMIT_CYCLE, lambda: self._cycles.cycling),
        }
        return MetricsExporter(self.controller, port, gauges)


def _unsupported(scheduler: Any) -> str | None:
    """Say which part of this server's setup was never shown to work, or None."""
    if scheduler.disaggregation_mode.name != "NULL":
        return "prefill and decode are disaggregated"
    if scheduler.dllm_config is not None:
        return "diffusion models schedule differently"
    from sglang.srt.runtime_context import get_parallel

    if get_parallel().pp_size > 1:
        return "with pipeline parallelism the stages schedule at different times"
    return None


def _rank(scheduler: Any) -> tuple[bool, int]:
    """Whether this rank leads, and how many ranks run this scheduler's batches."""
    group = scheduler.dp_tp_group
    return group.rank_in_group == 0, int(group.world_size)


def _broadcast(scheduler: Any) -> Callable[[Word], Word]:
    import torch.distributed as dist

    group = scheduler.dp_tp_cpu_group
    first = dist.get_global_rank(group, 0)

    def broadcast(word: Word) -> Word:
        carried: list[Word] = [word]
        dist.broadcast_object_list(carried, src=first, group=group)
        return carried[0]

    return broadcast


def _queueing_config(scheduler: Any) -> QueueingConfig:
    from sglang.srt.runtime_context import get_parallel

    model = scheduler.model_config
    return QueueingConfig(
        block_size=scheduler.page_size,
        head_dim=model.head_dim,
        num_kv_heads=model.get_num_kv_heads(get_parallel().attn_tp_size),
        num_layers=model.num_hidden_layers,
        concurrency=scheduler.max_running_requests,
    )
