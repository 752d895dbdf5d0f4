"""What surrounds the glue in a real vLLM server: control file, metrics, decision log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from bidkv.adapters.engine_number import number_engine
from bidkv.adapters.environment import Environment
from bidkv.adapters.service import EngineService
from bidkv.adapters.vllm.glue import DetachedGlue, VllmGlue
from bidkv.adapters.vllm.versions import SUPPORTED, is_newer, read_version
from bidkv.control_file import INTERVAL_S, ControlFile
from bidkv.stability import QueueingConfig

logger = logging.getLogger("bidkv")


class VllmService(EngineService):
    """One scheduler's controller with everything an operator can reach of it.

    Args:
        scheduler: vLLM's scheduler, fully made.
        environment: what the operator asks for.
        clock: seconds, monotonic.
        problem: what the self-test found; with it the scheduler is left alone.

    Raises:
        PolicySpecError: the strategy does not exist or has a bad option; the message lists what exists.

    Attributes:
        glue: carries events, questions and answers; a detached one where it could not be attached.
    """

    def __init__(
        self,
        scheduler: Any,
        environment: Environment,
        clock: Callable[[], float],
        problem: str | None = None,
    ) -> None:
        self._scheduler = scheduler
        config = scheduler.vllm_config
        rank = getattr(config.parallel_config, "data_parallel_index", 0)
        environment, self._number = number_engine(scheduler, environment, rank)
        self._exports = exports = environment.metrics_port is not None
        super().__init__(
            environment,
            by_priority=config.scheduler_config.policy == "priority",
            max_running=config.scheduler_config.max_num_seqs,
            clock=clock,
            exports=exports,
            logs=True,
        )
        self._next_poll_s = clock()
        self._control_file = None
        if environment.control_file is not None:
            self._control_file = ControlFile(environment.control_file, interval_s=0.0, clock=clock)
        self.glue: VllmGlue | DetachedGlue = self._attach(problem)
        if environment.metrics_port is not None:
            self.metrics = self._export(environment.metrics_port, self._readers())

    def _attach(self, problem: str | None) -> VllmGlue | DetachedGlue:
        """Attach to the scheduler; where vLLM is not as expected, say so and leave it to itself."""
        scheduler = self._scheduler
        if problem is not None:
            logger.warning(
                "bidkv: policy %r stays off and vLLM %s schedules with its own %s: %s",
                self.controller.policy_name,
                read_version(),
                type(scheduler).__qualname__,
                problem,
            )
            self.controller.disable()
            return DetachedGlue()
        try:
            glue = VllmGlue(scheduler, self.controller, self._clock, watches_sessions=self._exports)
        except Exception:
            logger.exception("bidkv: cannot attach to this vLLM scheduler; vLLM continues by its own rules")
            self.controller.disable()
            return DetachedGlue()
        if is_newer(read_version()):
            logger.warning(
                "bidkv: vLLM %s is newer than %s, the newest version tested; its self-test passed",
                read_version(),
                SUPPORTED[-1],
            )
        glue.before_pass = self.poll
        self._say_in_charge(type(scheduler).__name__)
        return glue

    def _read_queueing_config(self) -> QueueingConfig:
        model = self._scheduler.vllm_config.model_config
        parallel = self._scheduler.vllm_config.parallel_config
        scheduler = self._scheduler
        # With several groups of KV cache the scheduler's own size is a common multiple of theirs.
        attention_block = scheduler.cache_config.block_size * getattr(scheduler, "dcp_world_size", 1)
        return QueueingConfig(
            block_size=min(scheduler.block_size, attention_block),
            # A model without attention has heads of size 0; only the estimate in bytes reads it.
            head_dim=max(1, model.get_head_size()),
            num_kv_heads=max(1, model.get_num_kv_heads(parallel)),
            num_layers=max(1, model.get_num_layers(parallel)),
            concurrency=self._scheduler.max_num_running_reqs,
        )

    def poll(self) -> None:
        """Called every step; a few times a second it reads the control file and the queueing state."""
        now = self._clock()
        if now < self._next_poll_s:
            return
        self._next_poll_s = now + INTERVAL_S
        if self._control_file is not None:
            self._obey(self._control_file.poll())
        if self.controller.stability is not None and isinstance(self.glue, VllmGlue):
            engine = self.glue.engine
            self._look(engine)

    def _readers(self) -> dict[str, Callable[[], float]]:
        """Gauges of this engine; read from the exporter's thread, where the scheduler may be at work."""
        glue = self.glue
        readers: dict[str, Callable[[], float]] = {
            "hooks_in_place": lambda: float(glue.attached),
            "adapter_failures": lambda: glue.num_failures,
            "engine_number": lambda: self._number,
        }
        if isinstance(glue, VllmGlue):
            engine = glue.engine
            readers |= {
                "free_blocks": lambda: engine.free_blocks,
                "total_blocks": lambda: engine.num_blocks,
                "running_requests": lambda: engine.num_running,
                "waiting_requests": lambda: engine.num_waiting,
                "floor_blocks": lambda: glue.floor_blocks,
                "gate_shut": lambda: glue.gate_shut,
            }
        return readers
