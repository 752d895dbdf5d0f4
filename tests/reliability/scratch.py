"""A folder for what readers read in these tests; in memory where the system has that."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

MEMORY = "/dev/shm"  # files in memory, where the system has them
SCRATCH = Path(tempfile.mkdtemp(prefix="bidkv-fuzz-", dir=MEMORY if os.path.isdir(MEMORY) else None))
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


def file(name: str, content: bytes) -> Path:
    """Write a file into it."""
    path = SCRATCH / name
    path.write_bytes(content)
    return path
