"""The project's log lines are seen in a server's process, whoever configures logging there."""

from __future__ import annotations

import subprocess
import sys

import pytest

SAYS = "import logging; logging.getLogger('bidkv').info('in charge')"
SHOW = "from bidkv.adapters.visible_log import show_log_lines; show_log_lines(); show_log_lines()"
AS_VLLM = "import logging; logging.getLogger('vllm').addHandler(logging.StreamHandler())"
AS_SGLANG = "import logging; logging.basicConfig(level=logging.INFO, force=True)"
QUIET = "import logging; logging.basicConfig(level=logging.WARNING)"


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        ((SAYS,), 0),
        ((SHOW, SAYS), 1),
        ((AS_VLLM, SHOW, SAYS), 1),
        ((AS_SGLANG, SHOW, SAYS), 1),
        ((SHOW, AS_SGLANG, SAYS), 1),
        ((QUIET, SHOW, SAYS), 0),
    ],
)
def test_a_line_is_seen_once(lines: tuple[str, ...], count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout + done.stderr).count("in charge") == count
