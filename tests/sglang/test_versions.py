"""A version of SGLang with every place to attach to gets all hooks; any other none, and one warning."""

import logging

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from sglang.srt.plugins.hook_registry import HookRegistry

import sglang
from bidkv.adapters.sglang import plugin
from bidkv.adapters.sglang.hooks import REQUIRED, Hooks, unresolved

pytestmark = pytest.mark.sglang


def test_this_version_gets_all_hooks_or_none_at_all(monkeypatch, caplog):
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
    print(f"\nSGLang {sglang.__version__}: {there} {missing or ''}")
    if missing:
        assert registered == []
        assert len(warnings) == 1
        assert all(path in warnings[0] for path in missing)
    else:
        assert registered == targets
        assert warnings == []
