"""An error of the adapter's own code at any moment leaves vLLM to itself, with everything in its place."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.vllm.cases import Case, Step, random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler, make_request, run_case
from tests.vllm.ours import build_ours, run_ours
from vllm.config import ModelConfig

from bidkv.adapters.vllm import glue as glue_module
from bidkv.adapters.vllm.engine_view import VllmEngineView
from bidkv.adapters.vllm.queues import WaitingQueue
from bidkv.adapters.vllm.schedulers import scheduler_class
from bidkv.adapters.vllm.service import VllmService
from bidkv.protocol.read_only import write_facts


class GlueFault(Exception):
    """Raised where the adapter's own code is made to fail."""


def fail_at(owner: Any, name: str, call: int) -> None:
    """Let one method of an object fail at one of its calls; 0 is the first."""
    original: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(1_000_000))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise GlueFault(f"{name}, call {call}")
        return original(*args, **kwargs)

    if isinstance(owner, VllmEngineView):  # it takes no attribute, so its class fails
        kind = type(owner)
        fails = type(kind.__name__, (kind,), {"__slots__": (), name: staticmethod(failing)})
        write_facts(owner, __class__=fails)
    else:
        setattr(owner, name, failing)


def points(scheduler: Any) -> dict[str, tuple[Any, str]]:
    """Every place where the adapter's own code runs inside the engine."""
    glue = scheduler.bidkv.glue
    return {
        "poll": (glue, "before_pass"),
        "a step begins": (glue.engine, "begin_step"),
        "victims named": (glue.controller, "before_step"),
        "victims moved": (glue, "on_victims"),
        "a choice made": (glue, "_choose_next"),
        "an arrival": (glue.controller, "on_arrival"),
        "an admission": (glue.engine, "admitted"),
        "an admission told": (glue.controller, "on_admit"),
        "a preemption": (glue.engine, "preempted"),
        "a preemption told": (glue.controller, "on_preempt"),
        "a finish": (glue.controller, "on_finish"),
        "a pass ends": (glue, "_tell_admissions"),
        "a step told": (glue.controller, "after_step"),
    }


POINTS = (
    "poll",
    "a step begins",
    "victims named",
    "victims moved",
    "a choice made",
    "an arrival",
    "an admission",
    "an admission told",
    "a preemption",
    "a preemption told",
    "a finish",
    "a pass ends",
    "a step told",
)


def serve(case: Case, policy: str, base: type[Scheduler], point: str, call: int) -> tuple[list[Step], Any]:
    def prepare(scheduler: Any) -> None:
        scheduler.bidkv.glue.on_victims = lambda victims: None
        fail_at(*points(scheduler)[point], call)

    scheduler = build_ours(case, policy, base)
    steps = run_case(case, scheduler=scheduler, prepare=prepare, clock=scheduler.bidkv_clock)
    return steps, scheduler


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("kind", [{}, {"prefix_caching": True}, {"scheduling_policy": "priority"}])
@pytest.mark.parametrize("point", POINTS)
def test_an_error_of_our_own_leaves_the_engine_to_itself(point, kind, base, caplog, campaign):
    """Every request is served, no block is lost (`run_case` looks), and nothing of ours remains."""
    failed = 0
    for seed in range(40 if campaign else 3):
        case = random_case(seed, **kind)
        call = (0, 3, 17)[seed % 3]
        caplog.clear()
        steps, scheduler = serve(case, "fast" if seed % 2 else "lcf", base, point, call)
        service, glue = scheduler.bidkv, scheduler.bidkv.glue
        served = {request_id for step in steps for request_id, _ in step.scheduled}
        assert served == {request.request_id for request in case.requests}
        assert scheduler.kv_cache_manager.watermark_blocks == int(
            case.shape.watermark * case.shape.num_blocks
        )
        assert not glue._raised
        if glue.attached:
            continue  # the call never came in this workload
        failed += 1
        assert glue.num_failures == 1
        assert not service.controller.active
        assert not isinstance(scheduler.waiting, WaitingQueue), "vLLM has its own queues back"
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(errors) == 1
        assert "error in the vLLM adapter" in errors[0].message
    assert failed or point in ("a preemption", "a preemption told", "victims moved")


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("point", POINTS)
def test_the_engines_own_order_is_the_same_with_and_without_an_error(point, base):
    """`preempt-evict` answers nothing, so an error on the way must not change a single step."""
    for seed in range(3):
        case = random_case(seed, scheduling_policy="priority" if seed == 2 else "fcfs")
        steps, _ = serve(case, "preempt-evict", base, point, 5 * seed)
        assert steps == run_case(case, base), f"seed {seed}"


def test_raised_priorities_are_restored_in_the_middle_of_a_pass():
    """The victim's priority is raised when the error comes; it goes back to the queue under its own."""
    checked = 0
    for seed in range(8):
        case = random_case(seed, scheduling_policy="priority")
        own = {request.request_id: request.priority for request in case.requests}
        scheduler = build_ours(case, "lcf")
        fail_at(scheduler.bidkv.glue.engine, "preempted", 0)
        run_case(case, scheduler=scheduler, clock=scheduler.bidkv_clock, before_step=check_priorities(own))
        checked += not scheduler.bidkv.glue.attached
    assert checked >= 4


def check_priorities(own: dict[str, int]) -> Callable[[Any, int], None]:
    def check(scheduler: Any, number: int) -> None:
        for request in scheduler.requests.values():
            assert request.priority == own[request.request_id]

    return check


def test_a_scheduler_that_is_not_as_expected_keeps_its_own_rules(caplog, monkeypatch):
    case = random_case(1)

    def refuse(*args: Any) -> None:
        raise AttributeError("'Scheduler' object has no attribute 'kv_cache_manager'")

    monkeypatch.setattr(glue_module, "VllmEngineView", refuse)
    scheduler = build_ours(case, "lcf")
    assert run_case(case, scheduler=scheduler) == run_case(case)
    assert not scheduler.bidkv.glue.attached
    assert "cannot attach" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no"), ValueError("head_dim must be an integer >= 1")])
def test_a_service_that_cannot_be_made_leaves_the_engine_to_itself(error, caplog, monkeypatch):
    """The engine starts all the same; what was at fault is logged once."""
    case = random_case(1)

    def refuse(self: Any, *args: Any) -> None:
        raise error

    monkeypatch.setattr(VllmService, "_attach", refuse)
    scheduler = build_scheduler(case.shape, scheduler_class(asynchronous=False))
    assert scheduler.bidkv is None
    assert run_case(case, scheduler=scheduler) == run_case(case)
    assert caplog.text.count("bidkv: stays off") == 1


@pytest.mark.parametrize("missing", ["heads", "prometheus_client"])
def test_metrics_never_keep_an_engine_from_starting(missing, monkeypatch, free_port_pair, caplog):
    """A model without attention has heads of size 0; the exporter's library may not be installed."""
    if missing == "heads":
        monkeypatch.setattr(ModelConfig, "get_head_size", lambda self: 0)
    else:
        monkeypatch.setitem(sys.modules, "bidkv.observability.metrics", None)
    case = random_case(1)
    scheduler = build_ours(case, "lcf", BIDKV_METRICS_PORT=str(free_port_pair))
    service = scheduler.bidkv
    assert service.glue.attached
    assert (service.metrics is None) == (missing != "heads")
    assert ("bidkv: no metrics" in caplog.text) == (missing != "heads")
    run_case(case, scheduler=scheduler, clock=scheduler.bidkv_clock)
    assert service.controller.counters.completions == len(case.requests)
    if service.metrics is not None:
        service.metrics.close()


def test_what_asks_the_process_to_stop_passes():
    """A signal handler's SystemExit is no error of ours: it must reach the engine."""
    case = random_case(1)
    scheduler = build_ours(case, "lcf")

    def stop() -> None:
        raise SystemExit

    scheduler.bidkv.glue.before_pass = stop
    for index, request in enumerate(case.requests):
        scheduler.add_request(make_request(request, index, case))
    with pytest.raises(SystemExit):
        scheduler.schedule()
    assert scheduler.bidkv.glue.attached


def test_without_an_error_nothing_is_detached():
    _, scheduler = run_ours(random_case(1), "lcf")
    assert scheduler.bidkv.glue.attached
    assert scheduler.bidkv.glue.num_failures == 0
