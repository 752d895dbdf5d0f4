"""Which versions of vLLM get a policy: those it was tested on, and newer ones whose self-test passes."""

from __future__ import annotations

import logging
import warnings

import pytest
from tests.vllm.cases import random_case
from tests.vllm.harness import AsyncScheduler, Scheduler, build_scheduler, run_case
from tests.vllm.ours import run_ours
from vllm.config.scheduler import SchedulerConfig

import vllm
from bidkv.adapters.environment import STRATEGY
from bidkv.adapters.vllm import plugin
from bidkv.adapters.vllm.self_test import find_mismatch


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(STRATEGY, "fair")
    yield
    plugin.unregister()


def warnings_of_register() -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plugin.register()
        plugin.register()  # vLLM may load the entry point more than once in a process
    return [str(warning.message) for warning in caught if "bidkv" in str(warning.message)]


def test_this_version_gets_the_adapter():
    assert plugin.is_supported(vllm.__version__), f"vLLM {vllm.__version__} is not in {plugin.SUPPORTED}"
    own = SchedulerConfig.get_scheduler_cls
    assert warnings_of_register() == []
    assert SchedulerConfig.get_scheduler_cls is not own
    plugin.unregister()
    assert SchedulerConfig.get_scheduler_cls is own


@pytest.mark.parametrize("version", ["0.23.1", "0.3.2", "dev", ""])
def test_an_older_version_is_left_alone_with_one_warning(version, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", version)
    own = SchedulerConfig.get_scheduler_cls
    messages = warnings_of_register()
    assert len(set(messages)) == 1
    assert f"vLLM {version} is not supported" in messages[0]
    assert SchedulerConfig.get_scheduler_cls is own
    assert run_case(random_case(1), Scheduler)


@pytest.mark.parametrize("version", ["1.0.0", "0.320.0"])
def test_a_newer_version_is_tried_and_used_with_a_warning(version, monkeypatch, caplog):
    monkeypatch.setattr(vllm, "__version__", version)
    case = random_case(1)
    _, scheduler = run_ours(case, "lcf")
    assert scheduler.bidkv.controller.counters.preemptions_by_policy > 0
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    ours = [text for text in texts if text.startswith("bidkv")]
    assert ours == [
        f"bidkv: vLLM {version} is newer than {plugin.SUPPORTED[-1]}, the newest version tested; "
        "its self-test passed"
    ]


@pytest.mark.parametrize("base", [Scheduler, AsyncScheduler])
@pytest.mark.parametrize("options", [{}, {"prefix_caching": True}, {"scheduling_policy": "priority"}])
def test_the_self_test_passes_on_this_version(base, options):
    class Captured(base):
        def __init__(self, **arguments):
            self.arguments = arguments

    captured = build_scheduler(random_case(1, **options).shape, Captured)
    assert find_mismatch(base, (), captured.arguments) is None
