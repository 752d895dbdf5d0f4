"""Coverage-guided fuzzing of every reader of outside input, by atheris (pip install atheris).

    .venv/bin/python scripts/fuzz.py --list
    .venv/bin/python scripts/fuzz.py --inputs 1000000 profile result
    .venv/bin/python scripts/fuzz.py --inputs 1000000 --seconds 60

Each reader runs in processes of its own, starting from valid inputs. A crash is whatever is not the reader's
documented error, an input that takes 10 seconds, or one that takes a gigabyte; its input and
its output are kept in out/fuzz/. Prints a line for each reader; exits 1 after a crash.

A run that was stopped goes on where it was: what each reader has seen so far is noted in out/fuzz/ (remove
the folder to begin anew), and so are the inputs that led somewhere new.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = "--here"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if HERE in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["bidkv"]):
        from tests.reliability.readers import Reader, feed, readers
else:
    from tests.reliability.readers import Reader, feed, readers

FOUND = Path("out/fuzz")
LONGEST_INPUT_BYTES = 8192
LONGEST_INPUT_S = 10
MOST_MEMORY_MIB = 1024
SLICE_INPUTS = 200_000
"""Inputs a process; what a stopped run can lose."""


@dataclass(slots=True)
class Seen:
    """What a reader has been fed so far; kept in a file."""

    inputs: int = 0
    seconds: float = 0.0
    peak_mib: int = 0

    @classmethod
    def load(cls, name: str) -> Seen:
        """Read what earlier runs noted."""
        file = FOUND / f"{name}.json"
        return cls(**json.loads(file.read_text())) if file.exists() else cls()

    def add(self, name: str, inputs: int, seconds: float, peak_mib: int) -> None:
        """Note one more process."""
        self.inputs += inputs
        self.seconds += seconds
        self.peak_mib = max(self.peak_mib, peak_mib)
        (FOUND / f"{name}.json").write_text(json.dumps(asdict(self)))


def fuzz_here(reader: Reader, inputs: int, seconds: int) -> None:
    """Fuzz in this process, which ends with it."""
    logging.disable(logging.CRITICAL)
    corpus = FOUND / "corpus" / reader.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(reader.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    options = [
        sys.argv[0],
        f"-runs={inputs}",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT_BYTES}",
        f"-timeout={LONGEST_INPUT_S}",
        f"-rss_limit_mb={MOST_MEMORY_MIB}",
        f"-artifact_prefix={FOUND}/{reader.name}-",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(options, lambda content: feed(reader, content) and None)
    atheris.Fuzz()


def fuzz_apart(reader: Reader, inputs: int, seconds: int) -> bool:
    """Fuzz in other processes until `inputs` were seen; print what came of it, tell whether it was clean."""
    seen = Seen.load(reader.name)
    deadline_s = time.monotonic() + seconds if seconds else float("inf")
    clean = True
    while clean and seen.inputs < inputs and (left_s := deadline_s - time.monotonic()) >= 1.0:
        started = time.perf_counter()
        words = [
            sys.executable,
            __file__,
            HERE,
            "--inputs",
            str(min(SLICE_INPUTS, inputs - seen.inputs)),
            "--seconds",
            str(int(min(left_s, 86_400))),
            reader.name,
        ]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        ran = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
        peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", done.stderr)
        clean = done.returncode == 0 and ran is not None
        seen.add(
            reader.name,
            int(ran[1]) if ran else 0,
            time.perf_counter() - started,
            int(peak[1]) if peak else 0,
        )
        if not clean:
            (FOUND / f"{reader.name}.log").write_text(done.stdout + done.stderr)
            print("\n".join(done.stdout.splitlines()[-20:]))
    rate = seen.inputs / max(seen.seconds, 1e-9)
    print(
        f"{reader.name:20} {seen.inputs:>12,} inputs {seen.seconds:8.0f} s {rate:8,.0f}/s "
        f"{seen.peak_mib:>6} MiB  {'clean' if clean else 'CRASH'}",
        flush=True,
    )
    return clean


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="READER", help="which; default: all")
    parser.add_argument(
        "--inputs", type=int, default=1_000_000, help="inputs a reader, those of earlier runs included"
    )
    parser.add_argument("--seconds", type=int, default=0, help="seconds a reader; default: no limit")
    parser.add_argument("--list", action="store_true", help="print the readers' names")
    parser.add_argument(HERE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = {reader.name: reader for reader in readers()}
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no reader {unknown[0]!r}; there are {', '.join(known)}")
    if options.list:
        print("\n".join(known))
        return 0
    FOUND.mkdir(parents=True, exist_ok=True)
    chosen = [known[name] for name in options.names or known]
    if options.here:
        fuzz_here(chosen[0], options.inputs, options.seconds)
    clean = [fuzz_apart(reader, options.inputs, options.seconds) for reader in chosen]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    raise SystemExit(main())
