"""Makes this project's few log lines visible in a server's process.

vLLM configures its own logger and leaves the root alone, so that Python shows only warnings of everything
else; SGLang configures the root. A line at the start and one at each change must be seen under both.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

_FORMAT = "%(levelname)s %(asctime)s [%(name)s] %(message)s"
_TIME = "%m-%d %H:%M:%S"


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr while nobody has configured the root logger, whose handlers get each line too."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter(_FORMAT, _TIME))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line unless the root logger's handlers write it."""
        if not logging.getLogger().handlers:
            super().emit(record)


def show_log_lines() -> None:
    """Let the lines of INFO and above of the logger `bidkv` be seen, once per process.

    A process that configured logging itself, for this logger or at the root, keeps what it chose.
    """
    logger = logging.getLogger("bidkv")
    if logger.hasHandlers() or logger.level != logging.NOTSET:
        return
    logger.setLevel(logging.INFO)
    logger.addHandler(_StderrHandler())
