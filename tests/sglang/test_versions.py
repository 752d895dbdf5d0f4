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
    unexpected = find_unexpected(targets)
    changed = [path for path in needed if any(text.startswith(f"{path} takes (") for text in unexpected)]
    there = f"{len(needed) - len(missing) - len(changed)} of {len(needed)} places there"
    names = [shorten(path) for path in missing]
    names += [f"{shorten(path)} with the parameters expected" for path in changed]
    record_property("missing", ", ".join(names))
    print(f"\nSGLang {sglang.__version__}: {there} {'; '.join(unexpected)}")
    assert unexpected[: len(missing)] == [f"it has no {path}" for path in missing]
    assert len(unexpected) == len(missing) + len(changed)
    if unexpected:
        assert registered == []
        assert len(warnings) == 1
        assert all(text in warnings[0] for text in unexpected)
    else:
        assert registered == targets
        assert warnings == []


def shorten(path: str) -> str:
    """A place as the table of versions names it: its class and its own name."""
    return f"`{'.'.join(path.split('.')[-2:])}`"
