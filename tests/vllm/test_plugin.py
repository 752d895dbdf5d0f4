"""The entry point: what it changes, when it stays off, and that it leaves no trace."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from unittest.mock import patch

import pytest
from vllm.config.scheduler import SchedulerConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.diffusion_scheduler import DiffusionScheduler
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler

from bidkv.adapters.vllm import BidKVAsyncScheduler, BidKVScheduler
from bidkv.adapters.vllm.plugin import register, unregister
from bidkv.adapters.vllm.queues import PriorityWaitingQueue, WaitingQueue
from bidkv.adapters.vllm.schedulers import BidKVSchedulerMixin
from bidkv.adapters.vllm.versions import SUPPORTED, is_newer, is_supported
from bidkv.policy import PolicySpecError

ORIGINAL = SchedulerConfig.get_scheduler_cls


def config(**options) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64, is_encoder_decoder=False, **options
    )


@pytest.fixture(autouse=True)
def _clean():
    yield
    unregister()
    assert SchedulerConfig.get_scheduler_cls is ORIGINAL


@pytest.fixture
def strategy(monkeypatch):
    def choose(value: str) -> None:
        monkeypatch.setenv("BIDKV_STRATEGY", value)

    return choose


def test_vllm_finds_the_entry_point():
    found = {entry.name: entry.value for entry in entry_points(group="vllm.general_plugins")}
    assert found["bidkv"] == "bidkv.adapters.vllm.plugin:register"


def test_nothing_changes_while_no_strategy_is_set(monkeypatch):
    monkeypatch.delenv("BIDKV_STRATEGY", raising=False)
    register()
    assert SchedulerConfig.get_scheduler_cls is ORIGINAL


def test_both_schedulers_are_extended_and_ours_are_kept(strategy):
    strategy("lcf")
    register()
    assert config(async_scheduling=False).get_scheduler_cls() is BidKVScheduler
    assert config(async_scheduling=True).get_scheduler_cls() is BidKVAsyncScheduler
    named = config(scheduler_cls="bidkv.adapters.vllm.BidKVAsyncScheduler")
    assert named.get_scheduler_cls() is BidKVAsyncScheduler
    assert issubclass(BidKVScheduler, Scheduler)
    assert not issubclass(BidKVScheduler, AsyncScheduler)
    assert issubclass(BidKVAsyncScheduler, AsyncScheduler)


def test_registering_twice_wraps_once(strategy):
    strategy("lcf")
    register()
    once = SchedulerConfig.get_scheduler_cls
    register()
    assert SchedulerConfig.get_scheduler_cls is once


def test_another_kind_of_scheduler_is_left_alone_with_a_warning(strategy, caplog):
    strategy("lcf")
    register()
    other = config(scheduler_cls=DiffusionScheduler)
    assert other.get_scheduler_cls() is DiffusionScheduler
    assert "bidkv: stays off" in caplog.text


@pytest.mark.parametrize("spec", ["no-such", "lcf:depth=1", "static-random:seed=x"])
def test_a_bad_strategy_is_an_error_that_says_what_exists(strategy, spec):
    strategy(spec)
    with pytest.raises(PolicySpecError, match="BIDKV_STRATEGY: ") as error:
        register()
    assert any(word in str(error.value) for word in ("Available: ", "options", "must be an integer"))
    assert SchedulerConfig.get_scheduler_cls is ORIGINAL


def test_a_bad_port_is_an_error(strategy, monkeypatch):
    strategy("lcf")
    monkeypatch.setenv("BIDKV_METRICS_PORT", "many")
    with pytest.raises(ValueError, match="BIDKV_METRICS_PORT"):
        register()


def test_an_older_version_of_vllm_stays_alone_with_one_warning(strategy):
    strategy("lcf")
    with (
        patch("vllm.__version__", "0.23.1"),
        pytest.warns(UserWarning, match=r"0\.23\.1 is not supported") as caught,
    ):
        register()
    assert len(caught) == 1
    assert f"{SUPPORTED[0]} to {SUPPORTED[-1]}" in str(caught[0].message)
    assert SchedulerConfig.get_scheduler_cls is ORIGINAL


def test_a_newer_version_of_vllm_is_tried(strategy):
    strategy("lcf")
    with patch("vllm.__version__", "0.99.0"):
        register()
    assert config(async_scheduling=False).get_scheduler_cls() is BidKVScheduler


def test_a_version_that_chooses_its_scheduler_elsewhere_stays_alone(strategy, monkeypatch, caplog):
    strategy("lcf")
    monkeypatch.setitem(sys.modules, "vllm.config.scheduler", None)
    register()
    assert "stays off" in caplog.text


@pytest.mark.parametrize("chosen", [Scheduler, "a class by its name"])
def test_a_choice_that_cannot_be_extended_is_left_alone(strategy, monkeypatch, caplog, chosen):
    monkeypatch.setattr(SchedulerConfig, "get_scheduler_cls", lambda self: chosen)
    strategy("lcf")
    register()
    monkeypatch.setitem(sys.modules, "vllm.v1.core.sched.async_scheduler", None)
    assert config().get_scheduler_cls() is chosen
    assert "cannot be extended" in caplog.text
    unregister()


def test_versions():
    known = ("0.24.0+cu130", "0.25.1", "0.32.0", "0.32.1rc1")
    assert all(is_supported(version) and not is_newer(version) for version in known)
    newer = ("0.34.1", "0.100", "1.0.0", "0.34.0.dev12+g1a2b3c")
    assert all(is_newer(version) and not is_supported(version) for version in newer)
    unknown = ("0.3.2", "0.23.0", "dev", "", "x.40", "0", "0.340000000")
    assert not any(is_newer(version) or is_supported(version) for version in unknown)


def test_the_supported_versions_are_in_order():
    numbers = [tuple(int(part) for part in version.split(".")) for version in SUPPORTED]
    assert numbers == sorted(set(numbers))


# --- with other plug-ins -------------------------------------------------------------------------
class Theirs(Scheduler):
    """A scheduler that another plug-in chooses."""


def wrap_as_another_plugin() -> None:
    ours = SchedulerConfig.get_scheduler_cls
    SchedulerConfig.get_scheduler_cls = lambda self: type("Around", (ours(self),), {})


@pytest.fixture
def others_wrapper():
    yield wrap_as_another_plugin
    SchedulerConfig.get_scheduler_cls = ORIGINAL


def test_a_plugin_that_wrapped_before_us_is_composed(strategy, monkeypatch):
    strategy("lcf")
    monkeypatch.setattr(SchedulerConfig, "get_scheduler_cls", lambda self: Theirs)
    register()
    chosen = config().get_scheduler_cls()
    assert issubclass(chosen, BidKVSchedulerMixin)
    assert issubclass(chosen, Theirs)
    unregister()
    assert config().get_scheduler_cls() is Theirs
    monkeypatch.undo()


def test_a_plugin_that_wraps_after_us_is_kept_and_ours_stays_in(strategy, others_wrapper):
    strategy("lcf")
    register()
    others_wrapper()
    register()  # vLLM may call it again: ours is extended once
    chosen = config().get_scheduler_cls()
    assert [cls for cls in chosen.__mro__ if cls is BidKVSchedulerMixin] == [BidKVSchedulerMixin]
    unregister()
    after = config(async_scheduling=False).get_scheduler_cls()
    assert after.__mro__[1] is Scheduler, "theirs is still called, ours passes through"


@pytest.mark.parametrize("queue", [WaitingQueue, PriorityWaitingQueue])
def test_the_queues_have_every_method_the_engine_calls(queue):
    assert RequestQueue.__abstractmethods__ <= set(dir(queue))


def test_importing_the_adapter_does_not_import_vllm():
    code = (
        "import sys, bidkv.adapters.vllm, bidkv.adapters.vllm.plugin, bidkv.adapters.vllm.service\n"
        "sys.exit('vllm' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
