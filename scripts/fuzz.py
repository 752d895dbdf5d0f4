"""Coverage-guided fuzzing of every reader of outside input, by atheris (pip install atheris).

    .venv/bin/python scripts/fuzz.py --list
    .venv/bin/python scripts/fuzz.py --inputs 1000000 profile result
    .venv/bin/python scripts/fuzz.py --seconds 60

Each reader runs in a process of its own, starting from valid inputs. A crash is whatever is not the reader's
documented error, an input that takes 10 seconds, or one that takes a gigabyte; its input and
its output are kept in out/fuzz/. Prints a line for each reader; exits 1 after a crash.
"""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import time
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


def fuzz_here(reader: Reader, inputs: int, seconds: int) -> None:
    """Fuzz in this process, which ends with it."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(reader.seeds):
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        options = [
            sys.argv[0],
            f"-runs={inputs}",
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT_BYTES}",
            f"-timeout={LONGEST_INPUT_S}",
            f"-rss_limit_mb={MOST_MEMORY_MIB}",
            f"-artifact_prefix={FOUND}/{reader.name}-",
            "-print_final_stats=1",
            corpus,
        ]
        atheris.Setup(options, lambda content: feed(reader, content) and None)
        atheris.Fuzz()


def fuzz_apart(reader: Reader, inputs: int, seconds: int) -> bool:
    """Fuzz in another process and print what came of it; tells whether it was clean."""
    started = time.perf_counter()
    words = [
        sys.executable,
        __file__,
        HERE,
        "--inputs",
        str(inputs),
        "--seconds",
        str(seconds),
        reader.name,
    ]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    ran = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", done.stderr)
    clean = done.returncode == 0 and ran is not None
    print(
        f"{reader.name:16} {int(ran[1]) if ran else 0:>12,} inputs {time.perf_counter() - started:8.0f} s "
        f"{int(peak[1]) if peak else 0:>6} MiB  {'clean' if clean else 'CRASH'}",
        flush=True,
    )
    if not clean:
        (FOUND / f"{reader.name}.log").write_text(done.stdout + done.stderr)
        print("\n".join(done.stdout.splitlines()[-20:]))
    return clean


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="READER", help="which; default: all")
    parser.add_argument("--inputs", type=int, default=-1, help="inputs a reader; default: no limit")
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
    if options.inputs < 0 and options.seconds <= 0:
        parser.error("say how long: --inputs, --seconds or both")
    FOUND.mkdir(parents=True, exist_ok=True)
    chosen = [known[name] for name in options.names or known]
    if options.here:
        fuzz_here(chosen[0], options.inputs, options.seconds)
    clean = [fuzz_apart(reader, options.inputs, options.seconds) for reader in chosen]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    raise SystemExit(main())
