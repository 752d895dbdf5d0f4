"""What importing costs: `pytest benchmarks/test_import_time.py`; the contract's limit is 100 ms."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bidkv

SRC = Path(bidkv.__file__).parents[1]
IN_PROCESS = """
import sys, time
sys.path.insert(0, sys.argv[1])
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
"""


def import_seconds(statement: str) -> float:
    """Seconds `statement` takes in a fresh Python, the interpreter's own start left out."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", IN_PROCESS.format(statement=statement), str(SRC)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


@pytest.mark.parametrize("statement", ["import bidkv", "from bidkv import *"])
def test_import_time(benchmark: Any, statement: str) -> None:
    import_seconds(statement)  # writes the byte code
    seconds: list[float] = []
    benchmark.pedantic(lambda: seconds.append(import_seconds(statement)), rounds=9)
    benchmark.extra_info["import_ms_best"] = round(min(seconds) * 1e3, 2)
    benchmark.extra_info["import_ms_median"] = round(sorted(seconds)[len(seconds) // 2] * 1e3, 2)
    print(f"\n{statement}: {benchmark.extra_info}")
