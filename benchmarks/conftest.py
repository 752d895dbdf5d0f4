from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-trace",
        default="azure-conv",
        metavar="FILE",
        help="the trace the simulator's speed is measured on (default: the slice that ships)",
    )


@pytest.fixture(scope="session")
def bench_trace(request: pytest.FixtureRequest) -> str:
    return str(request.config.getoption("--bench-trace"))
