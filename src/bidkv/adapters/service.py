"""What surrounds the glue in a real server, whichever engine: policy, controller, decision log, metrics."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from bidkv._version import __version__
from bidkv.adapters.cycle_watch import CycleWatch
from bidkv.adapters.engine_metrics import POLICY_FIGURES, make_engine_metrics, make_session_readers
from bidkv.adapters.environment import Environment
from bidkv.adapters.visible_log import show_log_lines
from bidkv.baselines import ENGINE_ORDER
from bidkv.control import DEFAULT_TIME_BUDGET_S, Controller
from bidkv.control_file import obey
from bidkv.observability.decision_log import DecisionLog
from bidkv.observability.watchdog import PROCESS_WATCHDOG
from bidkv.policy import resolve
from bidkv.policy.parts.classes import WithinClasses
from bidkv.protocol.policy import EngineView, Policy
from bidkv.stability import QueueingConfig, QueueingController, ReplicaAdvisor

if TYPE_CHECKING:
    from bidkv.observability.metrics import MetricsExporter


logger = logging.getLogger("bidkv")


class EngineService(ABC):
    """One scheduler's controller with everything an operator can reach of it.

    Args:
        environment: what the operator asks for.
        by_priority: whether the engine schedules by priority, so that a policy decides within a class.
        max_running: requests that can run at once.
        clock: seconds, monotonic.
        exports: whether this process serves metrics.
        logs: whether this process writes the decision log.
        time_budget_s: longest time one answer of the policy may take.

    Attributes:
        controller: asks the policy.
        strategy: the policy of the start, as the operator named it.
        metrics: the exporter, or None.
    """

    def __init__(
        self,
        environment: Environment,
        *,
        by_priority: bool,
        max_running: int,
        clock: Callable[[], float],
        exports: bool,
        logs: bool,
        time_budget_s: float = DEFAULT_TIME_BUDGET_S,
    ) -> None:
        show_log_lines()
        self._by_priority = by_priority
        self._clock = clock
        self.strategy = environment.strategy or ENGINE_ORDER
        policy = self.resolve(self.strategy)
        log = environment.decision_log if logs else None
        self.controller = Controller(
            policy,
            time_budget_s=time_budget_s,
            stability=QueueingController(self._read_queueing_config(), clock=clock) if exports else None,
            observer=None if log is None else DecisionLog(log, wall_clock=time.time),
        )
        PROCESS_WATCHDOG.watch(self.controller)
        PROCESS_WATCHDOG.start()
        self.metrics: MetricsExporter | None = None
        self._policy_figures: dict[str, float] = {}
        self._cycles = CycleWatch(self.controller.counters, max_running)
        self._replicas = ReplicaAdvisor()

    def _say_in_charge(self, engine: str) -> None:
        """Write the one line at the start: policy, version, and what it is in charge of."""
        logger.info("bidkv %s: policy %r schedules this engine (%s)", __version__, self.strategy, engine)

    @abstractmethod
    def _read_queueing_config(self) -> QueueingConfig:
        """Read from the engine what the queueing controller needs to know."""

    def resolve(self, spec: str) -> Policy:
        """Return a policy for this engine: within user priority classes where it schedules by priority.

        Raises:
            PolicySpecError: the policy does not exist or has a bad option; the message lists what exists.
        """
        policy = resolve(spec)
        return WithinClasses(policy) if self._by_priority else policy

    def _obey(self, command: str | None) -> None:
        """Carry out a command of the operator, if there is one."""
        if command is not None:
            obey(command, self.controller, self.resolve)

    def _look(self, engine: EngineView) -> None:
        """Feed the queueing controller, the advisor of replicas and the cycle watch; read policy figures.

        Called in the engine's thread; a few times a second is plenty.
        """
        figures = self.controller.read_figures(engine)
        for name in POLICY_FIGURES:
            self._policy_figures[name] = figures.get(name, 0.0)
        stability = self.controller.stability
        if stability is not None:
            blocks = engine.num_blocks
            state = stability.compute_flow_state(
                blocks, blocks, num_waiting=engine.num_waiting, max_num_seqs=engine.max_num_seqs
            )
            counters = self.controller.counters
            self._replicas.update(
                self._clock(),
                state,
                is_known=stability.service_time().enough,
                arrivals=counters.arrivals,
                steps=counters.steps,
                tokens=counters.scheduled_tokens,
                running=engine.num_running,
                waiting=engine.num_waiting,
                token_budget=engine.max_num_batched_tokens,
            )
        self._cycles.look(self._clock(), engine.num_running)

    def _export(self, port: int, readers: dict[str, Callable[[], float]]) -> MetricsExporter | None:
        """Serve metrics: the controller's, the cycle watch's, and those of `readers`; None if it cannot."""
        try:
            from bidkv.observability.metrics import MetricsExporter
        except ImportError as error:
            logger.warning("bidkv: no metrics: %s", error)
            return None
        sources = make_engine_metrics(
            {
                **readers,
                **make_session_readers(self.controller, self._policy_figures),
                "limit_cycle": lambda: self._cycles.cycling,
                "desired_replicas": lambda: self._replicas.desired,
            }
        )
        return MetricsExporter(self.controller, port, sources)
