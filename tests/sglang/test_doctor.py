"""`bidkv doctor` where SGLang really is: its hooks are tried in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang", reason="SGLang is not installed: run `make test-sglang`")

from bidkv.adapters.doctor.findings import ANSWER

pytestmark = [pytest.mark.sglang, pytest.mark.timeout(300)]

# On a CPU SGLang cannot be imported without the tests' shims, which doctor does not have.
PROBE = "import shims; shims.install()\nfrom bidkv.adapters.doctor.probe import main\nmain()"


def probe(**environment: str) -> dict:
    known = {name: value for name, value in os.environ.items() if not name.startswith("BIDKV_")}
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "sglang"],
        cwd=Path(__file__).parent,
        env=known | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(ANSWER))
    return json.loads(line.removeprefix(ANSWER))


def test_all_hooks_take_hold():
    answer = probe(BIDKV_STRATEGY="lcf")
    assert answer["in_place"], answer["text"]
    assert "11 hooks are in place" in answer["text"]


def test_a_plugin_sglang_was_told_to_leave_out_is_missed():
    answer = probe(BIDKV_STRATEGY="lcf", SGLANG_PLUGINS="another")
    assert answer == {"in_place": False, "text": "SGLang did not run the plugin"}
