"""A version of SGLang with other names or parameters is left alone, with one warning."""

import logging
import pkgutil

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from sglang.srt.plugins.hook_registry import HookRegistry

from bidkv.adapters.sglang import plugin
from bidkv.adapters.sglang.expectations import REQUIRED, find_unexpected
from bidkv.adapters.sglang.hooks import Hooks

pytestmark = pytest.mark.sglang

TARGETS = [target.path for target in Hooks(lambda scheduler: None).targets]
MANAGERS = "sglang.srt.managers"


def one_more(self, req, is_retracted=False, in_front=False): ...


def no_flag(self, req): ...


def reason_first(self, reason, req): ...


def by_id(self, rid): ...


def result_first(self, result, batch): ...


def with_ratio(self, ratio): ...


def running_too(reqs, running_batch): ...


def without_ticks(self, waiting_queue, running_batch=None): ...


def batch_first(self, running_batch, waiting_queue, processed_tokens=0): ...


def by_node_id(self, node_id): ...


CHANGED = {
    "an argument more for a queued request": (
        f"{MANAGERS}.scheduler.Scheduler._add_request_to_queue",
        one_more,
    ),
    "a queued request without the flag": (f"{MANAGERS}.scheduler.Scheduler._add_request_to_queue", no_flag),
    "a reason before the aborted request": (
        f"{MANAGERS}.scheduler.Scheduler._release_aborted_request",
        reason_first,
    ),
    "an abort by name": (f"{MANAGERS}.scheduler.Scheduler._release_aborted_request", by_id),
    "the result before the batch": (f"{MANAGERS}.scheduler.Scheduler.process_batch_result", result_first),
    "in-flight requests of one batch": (f"{MANAGERS}.scheduler.Scheduler.collect_inflight_reqs", by_id),
    "an order that depends on more": (
        f"{MANAGERS}.schedule_batch.ScheduleBatch._get_decode_retraction_order",
        staticmethod(running_too),
    ),
    "retraction with a ratio": (f"{MANAGERS}.schedule_batch.ScheduleBatch.retract_decode", with_ratio),
    "preemption by name": (f"{MANAGERS}.schedule_policy.PrefillAdder.preempt_to_schedule", by_id),
    "a reason before the admitted request": (
        f"{MANAGERS}.schedule_policy.PrefillAdder.add_one_req",
        reason_first,
    ),
    "a queue sorted without ticks": (
        f"{MANAGERS}.schedule_policy.SchedulePolicy.calc_priority",
        without_ticks,
    ),
    "the batch before the queue": (f"{MANAGERS}.schedule_policy.SchedulePolicy.calc_priority", batch_first),
    "a lock by number": (REQUIRED[0], by_node_id),
    "an unlock by number": (REQUIRED[1], by_node_id),
}


@pytest.fixture
def register(monkeypatch, caplog):
    """Register the plugin; returns what was registered with SGLang and what was warned of."""
    monkeypatch.setenv("BIDKV_STRATEGY", "fair")
    registered = []
    monkeypatch.setattr(HookRegistry, "register", lambda target, hook, kind: registered.append(target))

    def run():
        with caplog.at_level(logging.WARNING, logger="bidkv"):
            plugin.register()
        return registered, [record.getMessage() for record in caplog.records if record.name == "bidkv"]

    return run


@pytest.mark.parametrize("path", [*TARGETS, *REQUIRED])
def test_a_renamed_place_leaves_sglang_alone(path, monkeypatch, register):
    owner, _, name = path.rpartition(".")
    place = pkgutil.resolve_name(owner)
    if name == "__init__":
        monkeypatch.delattr(pkgutil.resolve_name(owner.rpartition(".")[0]), owner.rpartition(".")[2])
    else:
        monkeypatch.delattr(place, name)
    registered, warnings = register()
    assert registered == []
    assert len(warnings) == 1
    assert f"it has no {path}" in warnings[0]


@pytest.mark.parametrize("change", CHANGED)
def test_other_parameters_leave_sglang_alone(change, monkeypatch, register):
    path, function = CHANGED[change]
    owner, _, name = path.rpartition(".")
    monkeypatch.setattr(pkgutil.resolve_name(owner), name, function)
    registered, warnings = register()
    assert registered == []
    assert len(warnings) == 1
    assert f"{path} takes (" in warnings[0]


def test_another_plugins_hook_around_a_place_is_accepted(monkeypatch):
    path = f"{MANAGERS}.schedule_policy.PrefillAdder.preempt_to_schedule"
    owner, _, name = path.rpartition(".")

    def theirs(self, *args, **kwargs): ...

    monkeypatch.setattr(pkgutil.resolve_name(owner), name, theirs)
    assert find_unexpected(TARGETS) == []
