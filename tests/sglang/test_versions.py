"""A version of SGLang with every place to attach to gets all hooks; any other none, and one warning."""

import logging

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from sglang.srt.plugins.hook_registry import HookRegistry

import sglang
from bidkv.adapters.sglang import plugin
from bidkv.adapters.sglang.expectations import REQUIRED, find_unexpected, unresolved
from bidkv.adapters.sglang.hooks import Hooks

pytestmark = pytest.mark.sglang


def test_this_version_gets_all_hooks_or_none_at_all(monkeypatch, caplog, record_property):
    monkeypatch.setenv("BIDKV_STRATEGY", "fair")
    registered = []
    monkeypatch.setattr(HookRegistry, "register", lambda target, hook, kind: registered.append(target))
    with caplog.at_level(logging.WARNING, logger="bidkv"):
        plugin.register()
    targets = [target.path for target in Hooks(lambda scheduler: None).targets]
    needed = [*targets, *REQUIRED]
    missing = unresolved(needed)
    warnings = [record.getMessage() for record in caplog.records if record.name == "bidkv"]
    there = f"{len(needed) - len(missing)} of {len(needed)} places there"
    record_property("missing", ", ".join(path.rpartition(".managers.")[2] for path in missing))
    print(f"\nSGLang {sglang.__version__}: {there} {missing or ''}")
    assert find_unexpected(targets) == [f"it has no {path}" for path in missing]
    if missing:
        assert registered == []
        assert len(warnings) == 1
        assert all(path in warnings[0] for path in missing)
    else:
        assert registered == targets
        assert warnings == []
