"""Which versions of vLLM get a policy: the supported ones; any other is left alone with one warning."""

from __future__ import annotations

import warnings

import pytest
from tests.vllm.cases import random_case
from tests.vllm.harness import Scheduler, run_case
from vllm.config.scheduler import SchedulerConfig

import vllm
from bidkv.adapters.environment import STRATEGY
from bidkv.adapters.vllm import plugin


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


@pytest.mark.parametrize("version", ["0.23.1", "0.3.2", "1.0.0", "0.320", "dev", ""])
def test_another_version_is_left_alone_with_one_warning(version, monkeypatch):
    monkeypatch.setattr(vllm, "__version__", version)
    own = SchedulerConfig.get_scheduler_cls
    messages = warnings_of_register()
    assert len(set(messages)) == 1
    assert f"vLLM {version} is not supported" in messages[0]
    assert SchedulerConfig.get_scheduler_cls is own
    assert run_case(random_case(1), Scheduler)
