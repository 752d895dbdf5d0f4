"""`--no-skips` is what makes `make test` fail when an engine or the browser is missing: it must bite."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "skipped": "import pytest\ndef test_it(): pytest.skip('no engine here')\n",
    "marked": "import pytest\n@pytest.mark.skipif(True, reason='no engine here')\ndef test_it(): pass\n",
    "module": "import pytest\npytest.importorskip('no_such_engine', reason='no engine here')\n",
}


def run_in(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "test_it.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}  # the conftest imports `tests`
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", CASES)
def test_a_skip_fails_the_run_and_its_reason_is_shown(kind: str, tmp_path: Path) -> None:
    done = run_in(tmp_path, CASES[kind], "--no-skips")
    assert done.returncode not in (0, 5)
    assert "no engine here" in done.stdout


def test_a_skip_is_a_skip_without_the_option(tmp_path: Path) -> None:
    done = run_in(tmp_path, CASES["skipped"])
    assert done.returncode == 0
    assert "1 skipped" in done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    source = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_it(): assert False\n"
    assert run_in(tmp_path, source, "--no-skips").returncode == 0
