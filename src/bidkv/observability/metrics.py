"""Prometheus metrics of one controller, read at scrape time; they cost the engine nothing in between.

Needs the `metrics` extra (prometheus-client). The registry is the exporter's own: an engine's default
registry, which may be set up for several processes, is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bidkv.control import Controller

logger = logging.getLogger("bidkv")

ADDRESS = "127.0.0.1"
DECISION_BUCKETS_S = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2)

_COUNTERS = {
    "arrivals": "Requests that arrived.",
    "admissions": "Admissions, those after a preemption included.",
    "completions": "Requests completed.",
    "aborts": "Requests aborted.",
    "steps": "Steps scheduled.",
    "scheduled_tokens": "Tokens scheduled.",
    "recomputed_tokens": "Tokens computed again after a preemption, known when a request stops running.",
    "pressured_steps": "Steps that needed more blocks than were free.",
    "decisions": "Victims chosen by the policy.",
    "overrides": "Victims other than the engine's own rule would have taken.",
    "abstentions": "Decisions the policy left to the engine.",
    "all_capped": "Decisions left to the engine because every candidate had reached the preemption cap.",
    "gate_refusals": "Times the policy admitted no request.",
    "preemptions_by_policy": "Preemptions of the policy's victims.",
    "preemptions_by_engine": "Preemptions by the engine's own rule.",
    "blocks_freed": "KV blocks given up by preempted requests.",
    "tokens_lost": "Computed positions given up by preempted requests.",
    "failures": "Failures of the policy; each hands over to the engine's own rule, or ends its figures.",
    "kill_switch_activations": "Times the kill switch was thrown.",
    "turns": "Turns of sessions that ended.",
    "sessions_ended": "Sessions whose client said that no turn follows.",
    "session_drops": "Times the policy gave up cached blocks of an idle session, all or the last ones.",
    "session_blocks_dropped": "Cached KV blocks of idle sessions given up.",
    "session_failures": "Faults in the session accounts; after the first they are off.",
}


@dataclass(frozen=True, slots=True)
class MetricSource:
    """A value read at scrape time.

    Attributes:
        help: what it means.
        read: reads it, from the exporter's thread.
        counts: whether it only grows: a counter, whose name gets `_total`; else a gauge.
    """

    help: str
    read: Callable[[], float]
    counts: bool = False


class ControllerCollector(Collector):
    """Turns a controller's counters, its state and its queueing estimates into metrics named `bidkv_*`.

    The seven queueing metrics keep their own names (`queueing_lambda`, ...).
    """

    def __init__(self, controller: Controller, sources: Mapping[str, MetricSource]) -> None:
        self._controller = controller
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Read everything once."""
        controller = self._controller
        for name, value in controller.counters.as_dict().items():
            yield CounterMetricFamily(f"bidkv_{name}", _COUNTERS.get(name, name), value=value)
        info = GaugeMetricFamily("bidkv_policy_active", "1 while the policy decides.", labels=["policy"])
        info.add_metric([controller.policy_name], float(controller.active))
        yield info
        yield GaugeMetricFamily(
            "bidkv_breaker_open", "1 after a failure of the policy.", float(controller.breaker.is_open)
        )
        yield GaugeMetricFamily("bidkv_killed", "1 while the kill switch is on.", float(controller.killed))
        for name, source in self._sources.items():
            family = CounterMetricFamily if source.counts else GaugeMetricFamily
            yield family(f"bidkv_{name}", source.help, value=float(source.read()))
        if controller.stability is not None:
            for name, figure in controller.stability.export_metrics().items():
                yield GaugeMetricFamily(name, "Queueing controller.", float(figure))


class MetricsExporter:
    """Serves one controller's metrics over HTTP on the loopback address.

    Args:
        controller: whose counters are shown; its `on_decision_time` is set to fill the histogram.
        port: TCP port.
        sources: further values by name (without the `bidkv_` prefix).
    """

    def __init__(
        self, controller: Controller, port: int, sources: Mapping[str, MetricSource] | None = None
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(ControllerCollector(controller, sources or {}))
        histogram = Histogram(
            "bidkv_decision_seconds",
            "Time of one victim decision of the policy.",
            buckets=DECISION_BUCKETS_S,
            registry=self.registry,
        )
        controller.on_decision_time = histogram.observe
        self._server: tuple[WSGIServer, Thread] | None = None
        try:
            self._server = start_http_server(port, addr=ADDRESS, registry=self.registry)
        except OSError as error:
            logger.warning("bidkv: no metrics on %s:%d: %s", ADDRESS, port, error)

    @property
    def serving(self) -> bool:
        """Whether the port could be opened."""
        return self._server is not None

    def close(self) -> None:
        """Stop serving and free the port."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()
