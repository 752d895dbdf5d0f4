"""Options of the tests on the real engine; run with `python -m pytest tests/vllm` in its environment."""

import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.engine_model import write_model

# Quiet, offline and on as many threads as there are requests to serve: set before vLLM is imported.
os.environ.update(
    {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
)


class WithoutEngine(pytest.Module):
    """A module of tests where vLLM is not installed: skipped as a whole, with the reason."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("vLLM is not installed here: `make test-vllm` runs these", allow_module_level=True)


if importlib.util.find_spec("vllm") is None:

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module:
        return WithoutEngine.from_parent(parent, path=module_path)

else:
    # numba is there for n-grams, which child processes try. vLLM 0.32 cannot make an engine in a process that
    # has loaded numba (it reads `vars()` of what modules hold), and the simulator would load it here.
    sys.modules.setdefault("numba", None)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama on disk."""
    return write_model(tmp_path_factory.mktemp("model"), max_model_len=1024)


@pytest.fixture
def free_port_pair() -> int:
    """A port that is free, and the next one too."""
    for _ in range(100):
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise AssertionError("no two neighbouring ports are free")


_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def note_figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Has a line printed when all tests are done: what was compared, beside that it was equal."""
    return request.config.stash.setdefault(_FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_FIGURES, [])
    if lines:
        terminalreporter.section("compared")
        for line in lines:
            terminalreporter.line(line)
