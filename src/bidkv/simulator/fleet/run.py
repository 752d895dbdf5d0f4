"""Run a workload through several simulated replicas behind a router."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bidkv.profiles import StepTimeProfile
from bidkv.protocol.policy import Policy
from bidkv.protocol.requests import WorkloadRequest
from bidkv.results import RunResult
from bidkv.simulator.arrivals import InOrder
from bidkv.simulator.fleet.merge import merge_results
from bidkv.simulator.fleet.registry import make_router
from bidkv.simulator.fleet.replica import FleetClock, Replica
from bidkv.simulator.fleet.router import Router
from bidkv.simulator.progress import PROGRESS_EVERY, ProgressCallback, RecordCallback
from bidkv.simulator.run import Backend
from bidkv.simulator.step_engine import ReplicaConfig


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The results of several replicas that served one workload.

    Attributes:
        router: name of the router.
        merged: the fleet as one: records in the order of leaving, counters and memory summed.
        replicas: each replica's own result.
    """

    router: str
    merged: RunResult
    replicas: tuple[RunResult, ...]

    def with_strategy(self, strategy: str) -> FleetResult:
        """Return a copy in which the strategy has another name."""
        return FleetResult(
            self.router,
            replace(self.merged, strategy=strategy),
            tuple(replace(result, strategy=strategy) for result in self.replicas),
        )


MOST_REPLICAS = 10_000
"""Most replicas of a fleet; each has an engine of its own in memory."""


def simulate_fleet(
    requests: Iterable[WorkloadRequest],
    policy: Policy,
    engine: ReplicaConfig,
    profile: StepTimeProfile,
    *,
    replicas: int,
    router: str | Router = "round-robin",
    progress: ProgressCallback | None = None,
    timeline_points: int = 2000,
    backend: Backend = "auto",
    on_record: RecordCallback | None = None,
) -> FleetResult:
    """Run a workload through equal replicas behind a router, all on one clock.

    A router decides at an arrival by the state of every replica at that moment. Each replica gives exactly
    the result that :func:`bidkv.simulator.simulate` gives for the requests sent to it.

    Args:
        requests: in the order of arrival; streamed, never held as a whole.
        policy: a fresh policy object; every replica gets a copy of it.
        engine: the options of each replica: an `EngineConfig` (vLLM) or a `SglangConfig`.
        profile: turns a step's batch into seconds.
        replicas: number of replicas, from 1 to 10,000.
        router: a name out of :func:`available_routers`, or a fresh router object.
        progress: called every few hundred requests with (requests sent so far, simulated seconds).
        timeline_points: most points of each timeline kept, at least 2.
        backend: as in `simulate`.
        on_record: takes each record as it leaves its replica. Results then hold none, and a run of any length
            needs memory for the live requests alone. Records of one replica come in the order of leaving;
            those of different replicas may not.

    Raises:
        SimulationError: as in `simulate`.
        ValueError: no replica, an unknown router, a router's answer that is not a replica, or a backend that
            does not cover the engine.
    """
    if not 1 <= replicas <= MOST_REPLICAS:
        raise ValueError(f"replicas must be from 1 to {MOST_REPLICAS:,}, got {replicas}")
    started = time.perf_counter()
    sender = make_router(router) if isinstance(router, str) else router
    clock = FleetClock()
    fleet = [
        Replica(
            index,
            clock,
            copy.deepcopy(policy),
            engine,
            profile,
            timeline_points=timeline_points,
            backend=backend,
            on_record=on_record,
        )
        for index in range(replicas)
    ]
    first_arrival_s = math.inf
    for sent, request in enumerate(InOrder(requests), start=1):
        clock.now_s = request.arrival_s
        first_arrival_s = min(first_arrival_s, clock.now_s)
        answer = sender.choose(request, fleet)
        chosen = next((replica for replica in fleet if replica is answer), None)
        if chosen is None:
            raise ValueError(f"router {sender.name!r} chose {answer!r}: expected one of the replicas")
        chosen.send(request)
        if progress is not None and sent % PROGRESS_EVERY == 0:
            progress(sent, clock.now_s)
    results = tuple(replica.finish(started) for replica in fleet)
    last_finish_s = max(replica.last_finish_s for replica in fleet)
    records = [record for result in results for record in result.records]
    whole = merge_results(
        results,
        sorted(records, key=lambda record: record.arrival_s if record.finish_s is None else record.finish_s),
        busy_s=max(0.0, last_finish_s - first_arrival_s),
        wall_s=time.perf_counter() - started,
        timeline_points=timeline_points,
        notes={"fleet": {"replicas": replicas, "router": sender.name}},
    )
    return FleetResult(sender.name, whole, results)
