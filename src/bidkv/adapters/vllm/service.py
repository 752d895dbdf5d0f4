"""What surrounds the glue in a real server: environment, control file, metrics, decision log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from bidkv.adapters.cycle_watch import LIMIT_CYCLE, CycleWatch
from bidkv.adapters.environment import Environment, read_environment
from bidkv.adapters.vllm.mixin import Glue
from bidkv.baselines import ENGINE_ORDER
from bidkv.control import Controller
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

    Attributes:
        controller: asks the policy.
        glue: carries questions and answers.
        metrics: the exporter, or None.
    """

    def __init__(self, scheduler: Any, environment: Environment, clock: Callable[[], float]) -> None:
        self._by_priority = scheduler.policy.value == "priority"
        policy = self.resolve(environment.strategy or ENGINE_ORDER)
        stability = None
        if environment.metrics_port is not None:
            stability = QueueingController(_queueing_config(scheduler), clock=clock)
        log = environment.decision_log
        observer = None if log is None else DecisionLog(log, wall_clock=time.time)
        self.controller = Controller(policy, stability=stability, observer=observer)
        PROCESS_WATCHDOG.watch(self.controller)
        PROCESS_WATCHDOG.start()
        self.glue = Glue(scheduler, self.controller, clock)
        self.metrics = None
        self._cycles = CycleWatch(self.controller.counters, scheduler.max_num_running_reqs)
        self._clock = clock
        self._next_poll_s = clock()
        self._control_file = None
        if environment.control_file is not None:
            self._control_file = ControlFile(environment.control_file, interval_s=0.0, clock=clock)
        if environment.metrics_port is not None:
            self.metrics = self._export(scheduler, environment.metrics_port)
        logger.info("bidkv: policy %r schedules this engine (%s)", policy.name, type(scheduler).__name__)

    @classmethod
    def from_environment(cls, scheduler: Any, clock: Callable[[], float]) -> Service:
        """Build it from the four environment variables.

        Raises:
            PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.
            ValueError: a variable's value makes no sense.
        """
        return cls(scheduler, read_environment(), clock)

    def resolve(self, spec: str) -> Policy:
        """A policy for this engine: inside user priority classes where the engine schedules by priority."""
        policy = resolve(spec)
        return WithinClasses(policy) if self._by_priority else policy

    def poll(self) -> None:
        """Called every step; a few times a second it reads the control file and the queueing state."""
        now = self._clock()
        if now < self._next_poll_s:
            return
        self._next_poll_s = now + INTERVAL_S
        if self._control_file is not None:
            command = self._control_file.poll()
            if command is not None:
                obey(command, self.controller, self.resolve)
        stability = self.controller.stability
        if stability is not None:
            engine = self.glue.engine
            stability.compute_stability_state(engine.free_blocks, engine.num_blocks)
            self._cycles.look(now, engine.num_running)

    def _export(self, scheduler: Any, port: int) -> Any:
        from bidkv.observability.metrics import Gauge, MetricsExporter

        engine = self.glue.engine
        gauges = {
            "free_blocks": Gauge("KV blocks nobody holds.", lambda: engine.free_blocks),
            "total_blocks": Gauge("KV blocks that requests can hold.", lambda: engine.num_blocks),
            "running_requests": Gauge("Requests that run.", lambda: len(scheduler.running)),
            "waiting_requests": Gauge("Requests that wait.", lambda: engine.num_waiting),
            "floor_blocks": Gauge(
                "Blocks the last admission had to leave free.", lambda: self.glue.floor_blocks
            ),
            "gate_shut": Gauge("1 while the policy admits nobody.", lambda: self.glue.gate_shut),
            "limit_cycle": Gauge(LIMIT_CYCLE, lambda: self._cycles.cycling),
        }
        return MetricsExporter(self.controller, port, gauges)


def _queueing_config(scheduler: Any) -> QueueingConfig:
    model = scheduler.vllm_config.model_config
    parallel = scheduler.vllm_config.parallel_config
    return QueueingConfig(
        block_size=scheduler.block_size,
        head_dim=model.get_head_size(),
        num_kv_heads=model.get_num_kv_heads(parallel),
        num_layers=model.get_num_layers(parallel),
        concurrency=scheduler.max_num_running_reqs,
    )
