"""The kill switch of a running engine: a small file into which its owner writes `on`, `off` or a policy.

    $ echo off > "$BIDKV_CONTROL_FILE"                # the engine is alone within a quarter of a second
    $ echo on > "$BIDKV_CONTROL_FILE"                 # the policy starts afresh from the engine's state
    $ echo "lcf" > "$BIDKV_CONTROL_FILE"              # another policy takes over

Write access to the file is control of the engine, so it must be a regular file that the engine's own user
owns and that no other user can write.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from bidkv.control import STOPS, Controller
from bidkv.protocol.policy import Policy

logger = logging.getLogger("bidkv")

INTERVAL_S = 0.25
"""Seconds between two looks at the file: a command takes effect within that time."""

LONGEST_COMMAND_BYTES = 4096
"""Longest command that is read: far more than any policy's specification needs."""


class ControlFile:
    """Reads commands from a file when it changes, at most every `interval_s` seconds.

    Args:
        path: the file; it need not exist yet, and a missing file commands nothing.
        interval_s: least time between two looks at it.
        clock: seconds, monotonic.
    """

    def __init__(
        self, path: Path, *, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._interval_s = interval_s
        self._clock = clock
        self._next_look_s = float("-inf")
        self._seen: tuple[int, ...] | None = None
        self._warned = False

    def poll(self) -> str | None:
        """Return the file's text when it changed since the last look, else None; it never raises."""
        now = self._clock()
        if now < self._next_look_s:
            return None
        self._next_look_s = now + self._interval_s
        try:
            return self.read_changed()
        except FileNotFoundError:
            self._seen = None
        except (OSError, ValueError) as error:
            self._refuse(str(error))
        return None

    def read_changed(self) -> str | None:
        """Return the file's text when it changed since it was read last, else None.

        Raises:
            OSError: it cannot be opened (a missing file included).
            ValueError: it is not safe to obey, or not text; the message says why.
        """
        # One open file is checked and read: between a check by name and the read the name could be replaced.
        # Non-blocking, so that a named pipe in its place cannot hold the engine up.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            self._check(status)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen == self._seen:
                return None
            content = os.read(descriptor, LONGEST_COMMAND_BYTES)
        finally:
            os.close(descriptor)
        self._seen = seen
        self._warned = False
        return content.decode().strip() or None

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_uid != os.geteuid():
            raise ValueError(f"user {status.st_uid} owns it, not this process's user {os.geteuid()}")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError("its group or others may write it (chmod go-w)")
        if status.st_size > LONGEST_COMMAND_BYTES:
            raise ValueError(f"it is longer than {LONGEST_COMMAND_BYTES} bytes")

    def _refuse(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("bidkv: control file %s is refused: %s", self._path, reason)


def obey(command: str, controller: Controller, resolve: Callable[[str], Policy]) -> None:
    """Carry out `on`, `off` or a switch to another policy; a bad command is logged and changes nothing."""
    try:
        if command == "off":
            controller.disable()
        elif command == "on":
            controller.enable()
        else:
            controller.switch(resolve(command))
    except STOPS:
        raise
    except BaseException as error:  # making and copying a policy is foreign code: nothing may get out
        logger.error("bidkv: the control file's command is ignored: %s", error)
        return
    logger.info(
        "bidkv: control file says %r; policy %r, active: %s",
        command,
        controller.policy_name,
        controller.active,
    )
