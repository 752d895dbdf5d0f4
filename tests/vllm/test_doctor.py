"""`bidkv doctor` where vLLM really is: the hook is tried in the engine itself."""

from __future__ import annotations

import os

from bidkv.adapters.doctor import Status, examine


def test_the_hook_takes_hold() -> None:
    report = examine({**os.environ, "BIDKV_STRATEGY": "fair"}, engine="vllm")
    assert [f.text for f in report.findings if f.status is not Status.OK] == []
    hook = report.findings[-1]
    assert hook.subject == "vllm hook"
    assert "bidkv.adapters.vllm.BidKV" in hook.text
    assert report.ready
