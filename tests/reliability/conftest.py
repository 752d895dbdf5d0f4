"""`--hypothesis-profile=nightly`: a hundred times as many examples as in `make test`."""

import pytest
from hypothesis import settings
from tests.reliability.tally import TALLY

settings.register_profile("nightly", max_examples=10_000, deadline=None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for machine, tally in TALLY.items():
        done = ", ".join(f"{count:,} {what}" for what, count in tally.items())
        terminalreporter.write_line(f"{machine}: {tally.total():,} operations: {done}")
