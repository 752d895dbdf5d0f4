"""The test at start: it passes on this vLLM, and a scheduler that was changed in any way is left alone."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from tests.vllm.cases import EngineShape
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler
from tests.vllm.kv_groups import KINDS, grouped_case
from tests.vllm.mutants import Change, changed_vllm, serve
from vllm.config import ModelConfig

import vllm
from bidkv.adapters.vllm import schedulers, self_test
from bidkv.adapters.vllm.glue import VllmGlue
from bidkv.adapters.vllm.schedulers import BidKVSchedulerMixin, extend_scheduler_class
from bidkv.adapters.vllm.self_test import find_mismatch
from bidkv.adapters.vllm.trial import NOT_IN_TRIAL, TrialParts, make_trial_requests

SHAPE = EngineShape(num_blocks=8, max_num_seqs=3, max_num_batched_tokens=64)


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of vLLM's sources, and the words with which it must be refused."""

    name: str
    changes: tuple[Change, ...]
    words: str


def renamed(old: str, new: str, words: str | None = None) -> Mutation:
    return Mutation(f"{old} is {new}", ((rf"\b{old}\b", new),), words or f"has no {old}")


def changed(name: str, words: str, *changes: Change) -> Mutation:
    return Mutation(name, changes, words)


MUTATIONS = (
    renamed("_inflight_prefills", "_prefills_in_flight"),
    renamed("watermark_blocks", "low_water_blocks", "has no kv_cache_manager.watermark_blocks"),
    renamed("num_sampled_tokens_per_step", "sampled_tokens_per_step"),
    renamed("max_num_running_reqs", "most_running_reqs"),
    renamed("_enqueue_waiting_request", "_enqueue_request"),
    renamed("_preempt_request", "_evict_request"),
    renamed("_free_request", "_release_request"),
    renamed("_update_request_as_session", "_continue_session"),
    renamed("get_request_counts", "count_requests"),
    renamed("single_type_managers", "group_managers", "has no kv_cache_manager.coordinator.single_type"),
    renamed("get_num_free_blocks", "count_free_blocks", "has no kv_cache_manager.block_pool.get_num_free"),
    renamed("num_tokens_with_spec", "num_known_tokens"),
    renamed("_output_token_ids", "_generated_token_ids"),
    renamed("total_num_scheduled_tokens", "num_tokens_in_step", "schedule() has no total_num"),
    renamed("kv_holding_waiting", "urgent_waiting", "a waiting queue urgent_waiting, which is new"),
    renamed("peek_request", "look_at_request", "a waiting queue must have look_at_request"),
    changed(
        "an argument more for an arrival",
        "_enqueue_waiting_request of the scheduler takes (request, in_front)",
        (
            r"def _enqueue_waiting_request\(self, request: Request\)",
            "def _enqueue_waiting_request(self, request: Request, in_front: bool = False)",
        ),
    ),
    changed(
        "the reason before the request that is preempted",
        "_preempt_request of the scheduler takes (reason, request,",
        (r"def _preempt_request\(\s*self, request", "def _preempt_request(self, reason, request"),
        (r"self\._preempt_request\(", "self._preempt_request('memory', "),
    ),
    changed(
        "an argument more for a queue",
        "prepend_request of a waiting queue takes (request, position)",
        (r"def prepend_request\(self, request: Request\)", "def prepend_request(self, request, position=0)"),
    ),
    changed(
        "waiting before running",
        "vLLM counts",
        (
            r"return len\(self\.running\), (len\(self\.waiting\) \+ len\(self\.kv_holding_waiting\))",
            r"return \1, len(self.running)",
        ),
        (
            r"num_running, num_waiting = self\.get_request_counts",
            "num_waiting, num_running = self.get_request_counts",
        ),
        (r"_, num_waiting = self\.get_request_counts", "num_waiting, _ = self.get_request_counts"),
    ),
    changed(
        "schedule answers with two things",
        "",
        (r"return scheduler_output\n", "return scheduler_output, None\n"),
    ),
    changed(
        "the first of those that run is preempted",
        "the policy named",
        (r"preempted_req = self\.running\.pop\(\)", "preempted_req = self.running.pop(0)"),
    ),
    changed(
        "preemptions that no subclass hears of",
        "",
        (r"self\._preempt_request\(\n", "Scheduler._preempt_request(self,\n"),
    ),
    changed(
        "ends that no subclass hears of",
        "",
        (r"= self\._free_request\(request\)", "= Scheduler._free_request(self, request)"),
    ),
    changed(
        "an admission that heeds no watermark",
        "although a reserve left room for two",
        (r"            watermark_blocks = self\.watermark_blocks", "            watermark_blocks = 0"),
    ),
    changed(
        "the head of a queue enters, whatever the queue says",
        "admissions: 0 were counted",
        (r"request = request_queue\.peek_request\(\)", "request = next(iter(request_queue))"),
        (r"request = request_queue\.pop_request\(\)", "request_queue.remove_request(request)"),
    ),
)


class Captured(Scheduler):
    """Keeps what a scheduler is made of."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments


def make_arguments(shape: EngineShape = SHAPE, **engine: Any) -> dict[str, Any]:
    captured: Any = build_scheduler(shape, Captured, **engine)
    return captured.arguments


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIDKV_STRATEGY", "fair")
    monkeypatch.setattr(self_test, "_results", {})


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_changed_scheduler_is_left_alone_with_one_warning(mutation, monkeypatch, caplog):
    """Off, one warning that says why, and a scheduler of vLLM's own class that does what it did."""
    arguments = make_arguments()
    monkeypatch.setattr(schedulers, "scheduler_class", schedulers.scheduler_class.__wrapped__)
    with changed_vllm(mutation.changes) as kind, caplog.at_level(logging.WARNING, logger="bidkv"):
        own = kind(**arguments)
        expected = serve(own, make_trial_requests())
        chosen = extend_scheduler_class(kind)
        assert issubclass(chosen, BidKVSchedulerMixin)
        scheduler = chosen(**arguments)
        assert type(scheduler) is kind
        assert serve(scheduler, make_trial_requests()) == expected
    records = [record for record in caplog.records if record.name == "bidkv"]
    assert len(records) == 1, [record.getMessage() for record in records]
    assert records[0].levelno == logging.WARNING
    text = records[0].getMessage()
    assert text.startswith(
        f"bidkv: policy 'fair' stays off and vLLM {vllm.__version__} schedules with its own"
    )
    assert mutation.words in text
    assert not scheduler.bidkv.controller.active
    assert scheduler.bidkv.glue.num_failures == 1


def test_there_are_enough_mutations():
    assert len(MUTATIONS) >= 20
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_a_change_that_means_nothing_is_no_reason(caplog):
    """The same machinery with a harmless change: the policy comes in."""
    arguments = make_arguments()
    with (
        changed_vllm([(r"class Scheduler\(", "# another line\nclass Scheduler(")]) as kind,
        patch.object(schedulers, "scheduler_class", schedulers.scheduler_class.__wrapped__),
    ):
        scheduler = extend_scheduler_class(kind)(**arguments)
        assert isinstance(scheduler, BidKVSchedulerMixin)
        assert isinstance(scheduler.bidkv.glue, VllmGlue)
    assert "stays off" not in caplog.text


def test_it_runs_once_for_a_class(monkeypatch):
    runs = []
    run = self_test._run
    monkeypatch.setattr(self_test, "_run", lambda kind, parts: (runs.append(kind), run(kind, parts)))
    arguments = make_arguments()
    for _ in range(3):
        assert find_mismatch(Scheduler, (), arguments) is None
    assert find_mismatch(AsyncScheduler, (), arguments) is None
    assert runs == [Scheduler, AsyncScheduler]


def test_the_engines_own_configuration_is_left_alone():
    arguments = make_arguments()
    config = arguments["vllm_config"]
    before = {name: vars(part).copy() for name, part in vars(config).items() if hasattr(part, "__dict__")}
    parts = TrialParts.read(Scheduler, (), arguments)
    parts.make_scheduler(Scheduler)
    assert {name: vars(getattr(config, name)) for name in before} == before


def test_arguments_without_names_are_understood():
    arguments = make_arguments()
    names = ["vllm_config", "kv_cache_config", "structured_output_manager", "block_size"]
    positional = tuple(arguments.pop(name) for name in names)
    assert find_mismatch(Scheduler, positional, arguments) is None


def test_a_class_that_takes_no_configuration_is_refused():
    class Strange:
        def __init__(self, size: int) -> None: ...

    assert find_mismatch(Strange, (3,), {}) == (
        "the self-test could not begin: TrialError: "
        "test_a_class_that_takes_no_configuration_is_refused.<locals>.Strange is not made of a vllm_config"
    )


# --- models of other kinds ---------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
def test_it_passes_for_a_model_with_several_groups(kind, base):
    case, specs = grouped_case(0, kind, prefix_caching="everywhere" in kind)
    arguments = make_arguments(case.shape, specs=specs)
    assert len(arguments["kv_cache_config"].kv_cache_groups) == len(specs)
    assert find_mismatch(base, (), arguments) is None


@pytest.mark.parametrize("trait", [name for name in NOT_IN_TRIAL if hasattr(ModelConfig, name)])
def test_it_passes_for_a_model_of_another_kind(trait):
    """The engine's own configuration keeps saying what the model is."""
    arguments = make_arguments()
    config = arguments["vllm_config"] = copy.copy(arguments["vllm_config"])
    model = config.model_config = copy.copy(config.model_config)
    kind = type(model)
    model.__class__ = type(kind.__name__, (kind,), {trait: True})
    vars(model).pop(trait, None)
    model.multimodal_config = object()
    assert find_mismatch(Scheduler, (), arguments) is None
    assert getattr(model, trait) is True


# --- schedulers of other people ------------------------------------------------------------------
class Counting(Scheduler):
    """Adds something of its own and schedules as vLLM does."""

    num_passes = 0

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self.num_passes += 1
        return super().schedule(*args, **kwargs)


class Reversing(Scheduler):
    """Lets the engine preempt others than a policy names."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        self.running.reverse()
        return super().schedule(*args, **kwargs)


def test_a_users_own_scheduler_is_extended(caplog):
    scheduler = extend_scheduler_class(Counting)(**make_arguments())
    assert isinstance(scheduler, BidKVSchedulerMixin)
    assert isinstance(scheduler, Counting)
    steps = serve(scheduler, make_trial_requests())
    assert scheduler.num_passes == len(steps)
    assert scheduler.bidkv.controller.counters.preemptions_by_policy > 0
    assert "stays off" not in caplog.text


def test_a_users_scheduler_in_which_a_policy_would_go_wrong_is_refused_in_one_sentence(caplog):
    arguments = make_arguments()
    scheduler = extend_scheduler_class(Reversing)(**arguments)
    assert type(scheduler) is Reversing
    own = Reversing(**arguments)
    assert serve(scheduler, make_trial_requests()) == serve(own, make_trial_requests())
    warnings = [record.getMessage() for record in caplog.records if record.name == "bidkv"]
    assert len(warnings) == 1
    assert "schedules with its own Reversing: the policy named" in warnings[0]


def test_a_class_derived_from_ours_keeps_its_methods_when_a_policy_stays_off(monkeypatch):
    class Derived(schedulers.scheduler_class(asynchronous=False)):
        def answer(self) -> int:
            return 42

    monkeypatch.setattr(self_test, "_try", lambda kind, parts: "for a test")
    scheduler = Derived(**make_arguments())
    assert type(scheduler) is Derived
    assert scheduler.answer() == 42
    assert not scheduler.bidkv.glue.attached
