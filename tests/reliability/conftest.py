"""`--hypothesis-profile=nightly`: a hundred times as many examples as in `make test`."""

import pytest
from hypothesis import settings
from tests.reliability.tally import TALLY

settings.register_profile("nightly", max_examples=10_000, deadline=None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLY:
        done = ", ".join(f"{count:,} {what}" for what, count in TALLY.items())
        terminalreporter.write_line(f"state machine: {TALLY.total():,} operations: {done}")
