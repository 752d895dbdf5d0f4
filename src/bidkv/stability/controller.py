"""The queueing controller: is the load sustainable, and how many blocks does the flow of requests need.

By Little's law lambda * E[S] * E[blocks] is the mean number of blocks in use, the *floor*. Two questions are
asked of it, by two methods:

* :meth:`QueueingController.compute_stability_state` compares the floor with the *free* blocks, as the
published
  controller does. Beside the flow that already uses memory this calls a busy server unstable.
* :meth:`QueueingController.compute_flow_state` compares it with the blocks the flow *may use*. This is the
  utilization of a server that batches; live engines report it (docs/reference/stability.md has the
  derivation).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from bidkv.stability.agents import AgentCounts, AgentTable
from bidkv.stability.backlog import BACKLOG_S, BACKLOG_SHARE, BacklogWatch
from bidkv.stability.config import QueueingConfig
from bidkv.stability.estimators import ArrivalRate, Estimate, ForgettingMoments
from bidkv.stability.quantization import QuantizationAdvisor
from bidkv.stability.state import NO_DATA, AdmissionDecision, DecisionReason, StabilityState

MIN_COMPLETIONS = 10
DEFAULT_ARRIVAL_RPS = 0.1
DEFAULT_SERVICE_S = 1.0
_DRAINING = 0.75
"""While arrivals are below this share of the completions, the queue is being worked off."""
_INFINITY = math.inf
# Service times are given in milliseconds off clocks that tick in microseconds; zero would make mu infinite.
_LEAST_SERVICE_S = 1e-6


class QueueingController:
    """Streaming queueing estimates, the blocks the flow of requests needs, and decisions that keep them free.

    Timestamps may come from any clock. Between events the time passed on `clock` is added to the newest
    timestamp, so the rate decays in silence whether timestamps are wall time or made up.

    Args:
        config: settings; None for the defaults.
        clock: monotonic seconds; for silence and for the eviction interval.

    >>> controller = QueueingController()
    >>> controller.compute_stability_state(current_free_blocks=80, total_blocks=100).minimum_stable_blocks
    2
    """

    __slots__ = (
        "_advisor",
        "_agents",
        "_announced",
        "_announced_blocks",
        "_arrivals",
        "_backlog",
        "_block_size",
        "_blocks",
        "_clock",
        "_config",
        "_departures",
        "_evicted_at_s",
        "_held_block_s",
        "_last_state",
        "_newest_s",
        "_read_at_s",
        "_service",
    )

    def __init__(
        self, config: QueueingConfig | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config or QueueingConfig()
        self._block_size = self._config.block_size
        self._clock = clock
        window = self._config.window_seconds
        self._arrivals = ArrivalRate(window)
        # Plain sums: they serve only until MIN_COMPLETIONS, too short a time to forget in.
        self._announced = self._announced_blocks = 0
        self._service = ForgettingMoments(window)
        self._blocks = ForgettingMoments(window)
        self._held_block_s = ForgettingMoments(window)
        self._departures = ArrivalRate(window)
        self._backlog = BacklogWatch()
        self._agents = AgentTable()
        self._advisor = QuantizationAdvisor()
        self._newest_s = -_INFINITY
        self._read_at_s = 0.0
        self._evicted_at_s: float | None = None
        self._last_state: StabilityState | None = None

    @property
    def config(self) -> QueueingConfig:
        """The settings in force."""
        return self._config

    # --- events ----------------------------------------------------------------------------------
    def record_request_arrival(self, timestamp: float, token_count: int, agent_id: str) -> None:
        """Count an arrival.

        Args:
            timestamp: seconds, any clock; may repeat or run late.
            token_count: tokens known to be needed (the prompt); the mean demand before completions exist.
            agent_id: its sender.

        Raises:
            ValueError: a negative, infinite or NaN number, or an agent_id that is not a string.
        """
        if not 0.0 <= timestamp < _INFINITY:
            raise ValueError("timestamp must be >= 0 and finite")
        if not 0 <= token_count < _INFINITY:
            raise ValueError("token_count must be >= 0 and finite")
        self._agents.arrived(agent_id)
        self._arrivals.update(timestamp)
        if timestamp > self._newest_s:
            self._newest_s = timestamp
            self._read_at_s = self._clock()
        self._announced += 1
        self._announced_blocks += math.ceil(token_count / self._block_size)

    def record_request_completion(
        self,
        timestamp: float,
        service_time_ms: float,
        blocks_consumed: int,
        agent_id: str,
        *,
        mean_blocks: float | None = None,
    ) -> None:
        """Take in a finished request.

        Args:
            timestamp: seconds, the same clock as the arrivals'.
            service_time_ms: milliseconds from admission to the last token.
            blocks_consumed: KV blocks it held at its end.
            agent_id: its sender.
            mean_blocks: KV blocks it held on average while it was served; None takes `blocks_consumed`.

        Raises:
            ValueError: a negative, infinite or NaN number, or an agent_id that is not a string.
        """
        if not 0.0 <= timestamp < _INFINITY:
            raise ValueError("timestamp must be >= 0 and finite")
        if not 0.0 <= service_time_ms < _INFINITY:
            raise ValueError("service_time_ms must be >= 0 and finite")
        if not 0 <= blocks_consumed < _INFINITY:
            raise ValueError("blocks_consumed must be >= 0 and finite")
        held = float(blocks_consumed) if mean_blocks is None else mean_blocks
        if not 0.0 <= held < _INFINITY:
            raise ValueError("mean_blocks must be >= 0 and finite")
        self._agents.consumed(agent_id, blocks_consumed)
        self._service.update(service_time_ms / 1000.0, timestamp)
        self._blocks.update(blocks_consumed, timestamp)
        self._held_block_s.update(held * service_time_ms / 1000.0, timestamp)
        self._departures.update(timestamp)
        if timestamp > self._newest_s:
            self._newest_s = timestamp
            self._read_at_s = self._clock()

    # --- estimates -------------------------------------------------------------------------------
    def arrival_rate(self) -> Estimate:
        """Arrivals per second now, with uncertainty; without the defaults of the first completions."""
        return self._arrivals.get(self._now_s())

    def service_time(self) -> Estimate:
        """Seconds from admission to the last token."""
        return self._service.get()

    def blocks_per_request(self) -> Estimate:
        """KV blocks of a finished request."""
        return self._blocks.get()

    def agent_counts(self) -> dict[str, AgentCounts]:
        """Arrivals, blocks and share of each recently active agent."""
        return self._agents.counts()

    def _now_s(self) -> float:
        return self._newest_s + max(0.0, self._clock() - self._read_at_s)

    def _figures(self) -> tuple[float, float, float]:
        """Return (lambda, E[S] in seconds, E[blocks]), defaults included."""
        if self._service.count >= MIN_COMPLETIONS:
            rate = self._arrivals.get(self._now_s()).value
            service = max(self._service.get().value, _LEAST_SERVICE_S)
            return (DEFAULT_ARRIVAL_RPS if math.isnan(rate) else rate), service, self._blocks.get().value
        blocks = float(self._config.block_size)
        if self._announced:
            announced = self._announced_blocks / self._announced
            # Announced tokens lack the outputs: they replace the default only while nothing else is known.
            blocks = max(blocks, announced) if self._service.count else announced
        return DEFAULT_ARRIVAL_RPS, DEFAULT_SERVICE_S, blocks

    def _floor(self) -> int:
        rate, service, blocks = self._figures()
        return _whole_blocks(rate * service * blocks * self._config.safety_margin)

    def compute_stability_state(self, current_free_blocks: int, total_blocks: int) -> StabilityState:
        """Return the state for the blocks free now; it is what :meth:`export_metrics` shows afterwards.

        Raises:
            ValueError: `total_blocks` below 1 or `current_free_blocks` outside [0, total_blocks].
        """
        _check_blocks(current_free_blocks, total_blocks)
        rate, service, blocks = self._figures()
        mu = self._config.concurrency / service
        rho = rate / mu
        per_rate = service * blocks * self._config.safety_margin
        floor = _whole_blocks(rate * per_rate)
        critical = current_free_blocks / per_rate if per_rate > 0.0 else math.inf
        boundary = min(mu, critical)
        larger = max(boundary, rate)
        state = StabilityState(
            arrival_rate_lambda=rate,
            service_rate_mu=mu,
            mean_blocks_per_request=blocks,
            utilization_rho=rho,
            is_stable=rho < 1.0 and current_free_blocks >= floor,
            lambda_critical=critical,
            minimum_stable_blocks=min(floor, total_blocks),
            stability_margin_pct=100.0 * (boundary - rate) / larger if larger > 0.0 else 0.0,
        )
        self._last_state = state
        return state

    def compute_flow_state(
        self, flow_blocks: int, total_blocks: int, *, num_waiting: int, max_num_seqs: int
    ) -> StabilityState:
        """Return the state of a live engine; it is what :meth:`export_metrics` shows afterwards.

        Call it a few times a second. The utilization is lambda * E[S] * E[blocks] / `flow_blocks`, with
        E[blocks] the mean number held while a request is served, or lambda * E[S] / `max_num_seqs` where
        that is more. The load is called unstable once the queue has stopped emptying
        (:mod:`bidkv.stability.backlog`) while no fewer requests arrive than leave; the boundary lies then
        at no more than lambda, and at no less before.

        In the state `service_rate_mu` and `lambda_critical` are the boundary, requests per second, and
        `minimum_stable_blocks` is the floor of the flow, margin included.

        Args:
            flow_blocks: blocks the flow of requests may use: all but those kept for idle sessions, at least
            1.
            total_blocks: blocks there are.
            num_waiting: requests that wait now.
            max_num_seqs: most requests the engine runs at once.

        Raises:
            ValueError: counts out of range.
        """
        if not 1 <= flow_blocks <= total_blocks < _INFINITY:
            raise ValueError("flow_blocks must be in [1, total_blocks]")
        if not (num_waiting >= 0 and max_num_seqs >= 1):
            raise ValueError("num_waiting must be >= 0 and max_num_seqs >= 1")
        rate, service_s, blocks = self._figures()
        held_s = service_s * blocks
        if self._service.count >= MIN_COMPLETIONS:
            held_s = self._held_block_s.get().value
        self._backlog.update(self._clock(), backlogged=num_waiting >= max(1.0, BACKLOG_S * rate))
        each = max(held_s / flow_blocks, service_s / max_num_seqs)  # utilization per request a second
        boundary = 1.0 / each if each > 0.0 else math.inf
        leaving = self._departures.get(self._now_s()).value
        is_stable = self._backlog.share < BACKLOG_SHARE or rate < _DRAINING * leaving
        boundary = max(boundary, rate) if is_stable else min(boundary, rate)
        larger = max(boundary, rate)
        state = StabilityState(
            arrival_rate_lambda=rate,
            service_rate_mu=boundary,
            mean_blocks_per_request=held_s / service_s,
            utilization_rho=rate / boundary if boundary > 0.0 else math.inf,
            is_stable=is_stable,
            lambda_critical=boundary,
            minimum_stable_blocks=min(
                _whole_blocks(rate * held_s * self._config.safety_margin), total_blocks
            ),
            stability_margin_pct=100.0 * (boundary - rate) / larger if 0.0 < larger < _INFINITY else 0.0,
        )
        self._last_state = state
        return state

    # --- decisions -------------------------------------------------------------------------------
    def decide(
        self, current_free_blocks: int, total_blocks: int, requested_new_blocks: int
    ) -> AdmissionDecision:
        """Decide on a request that needs `requested_new_blocks` more blocks.

        A decision that evicts starts the eviction interval.

        Raises:
            ValueError: block counts that are negative or exceed `total_blocks`.
        """
        _check_blocks(current_free_blocks, total_blocks)
        if not 0 <= requested_new_blocks < _INFINITY:
            raise ValueError("requested_new_blocks must be >= 0 and finite")
        floor = min(self._floor(), total_blocks)
        missing = floor + requested_new_blocks - current_free_blocks
        if missing <= 0:
            return AdmissionDecision(True, 0, floor, False, 0.0, True, DecisionReason.FITS)
        if missing > total_blocks - current_free_blocks:
            # Evicting all of it would not make room, so evicting any of it would be waste.
            return AdmissionDecision(False, 0, floor, False, 0.0, False, DecisionReason.EXCEEDS_MEMORY)
        now = self._clock()
        if self._evicted_at_s is not None:
            wait_ms = self._config.min_eviction_interval_ms - (now - self._evicted_at_s) * 1000.0
            if wait_ms > 0.0:
                return AdmissionDecision(
                    False, 0, floor, True, wait_ms, True, DecisionReason.EVICTED_A_MOMENT_AGO
                )
        self._evicted_at_s = now
        return AdmissionDecision(True, missing, floor, False, 0.0, True, DecisionReason.EVICT_FIRST)

    def get_eviction_target_blocks(
        self, current_free_blocks: int, total_blocks: int, requested_new_blocks: int
    ) -> int:
        """Return the blocks to evict so that the request can enter and the floor stays free.

        0 also within the eviction interval and when nothing can help: :meth:`decide` tells which, and
        whether to admit.

        Raises:
            ValueError: as :meth:`decide`.
        """
        return self.decide(current_free_blocks, total_blocks, requested_new_blocks).evict_blocks

    def get_recommended_quantization_bits(self) -> int:
        """Return 16, 8, 4 or 2 bits per KV value for the present rho, with hysteresis."""
        rate, service, _ = self._figures()
        return self._advisor.advise(rate * service / self._config.concurrency)

    def export_metrics(self) -> dict[str, float]:
        """Return the last computed state as gauges; NaN, Prometheus' "no data", before the first one."""
        return dict(NO_DATA) if self._last_state is None else self._last_state.as_metrics()


def _whole_blocks(blocks: float) -> int:
    # Rounded first: 23.000000000000004 blocks are 23.
    return math.ceil(round(blocks, 9))


def _check_blocks(free_blocks: int, total_blocks: int) -> None:
    if not 1 <= total_blocks < _INFINITY:
        raise ValueError("total_blocks must be >= 1 and finite")
    if not 0 <= free_blocks <= total_blocks:
        raise ValueError("current_free_blocks must be in [0, total_blocks]")
