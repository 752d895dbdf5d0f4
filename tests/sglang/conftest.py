"""Real SGLang without a model: its configuration, and this project's hooks in place once for all tests."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("sglang") is not None:
    # Few tokens are promised ahead after a retraction, so small pools come under pressure again and again.
    os.environ["SGLANG_RETRACT_DECODE_STEPS"] = "1"
    import shims

    shims.install()


@pytest.fixture(scope="session")
def _hooks(tmp_path_factory):
    import logging

    from modelfree import publish_arguments
    from sglang.srt.managers import schedule_policy
    from sglang.srt.plugins.hook_registry import HookRegistry

    from bidkv.adapters.sglang.hooks import Hooks

    logging.getLogger("sglang").setLevel(logging.ERROR)
    publish_arguments(tmp_path_factory.mktemp("model"), schedule_conservativeness=0.1)
    schedule_policy.CLIP_MAX_NEW_TOKENS = 8  # so that admissions overcommit
    hooks = Hooks(lambda scheduler: None)
    hooks.register()
    HookRegistry.apply_hooks()
    return hooks


@pytest.fixture
def hooks(_hooks):
    """The hooks, with nobody attached."""
    _hooks.glue = None
    yield _hooks
    _hooks.glue = None


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random model on disk."""
    from tiny_model import write_model

    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def plain_server(tmp_path_factory, tiny):
    """A real server without overlap, whose scheduler can be disturbed; SGLang checks its memory each step.

    One for several modules, since it takes as long to start as they do; `test_faults.py` ends it.
    """
    from real_server import running

    memory_checks = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}
    flags = ("--disable-overlap-schedule",)
    folder = tmp_path_factory.mktemp("plain") / "server"
    with running(folder, tiny, "bidkv", *flags, main="fault_main.py", environment=memory_checks) as server:
        yield server
