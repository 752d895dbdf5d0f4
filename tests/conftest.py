"""What all suites share: `--no-skips`, `--campaign`, and the sum of what state machines did in workers."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from tests.reliability.tally import TALLY


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail what would be skipped: for runs in which an engine or a browser must be there",
    )
    parser.addoption(
        "--campaign",
        action="store_true",
        help="the long version of tests on real engines: 200 workloads, 2,000 requests, more repeats",
    )


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> bool:
    """Whether the long version was asked for."""
    return bool(request.config.getoption("--campaign"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked `campaign`, unless the long version was asked for: that one may take hours.

    Its tests have no time limits: servers and child processes have limits of their own.
    """
    if config.getoption("--campaign"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)
        return
    left_out = [item for item in items if item.get_closest_marker("campaign")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and config.getoption("--no-skips"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"--no-skips was given, but: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report, item.config)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report, collector.config)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of `-n` hands its tally to the one that prints."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tally"] = {machine: dict(tally) for machine, tally in TALLY.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for machine, tally in getattr(node, "workeroutput", {}).get("tally", {}).items():
        TALLY[machine].update(tally)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for machine, tally in TALLY.items():
        done = ", ".join(f"{count:,} {what}" for what, count in tally.items())
        terminalreporter.write_line(f"{machine}: {tally.total():,} operations: {done}")
