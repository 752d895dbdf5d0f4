"""Fuzzing of every reader of outside input: coverage-guided by atheris (pip install atheris), then blind.

    .venv/bin/python scripts/fuzz.py --list
    .venv/bin/python scripts/fuzz.py --inputs 1000000 profile result
    .venv/bin/python scripts/fuzz.py --inputs 1000000 --seconds 60

Each reader runs in processes of its own, starting from valid inputs. One input in a hundred is guided by
coverage, which finds ways into the code but is slow; the rest are random changes of all that was found, many
times faster. Traces that are not packed are read from memory instead of files. A crash is an error that the
reader does not document, an input that takes 10 seconds, or one that takes a gigabyte. Its input and output
are kept in out/fuzz/. Prints a line for each reader; exits 1 after a crash.

A run that was stopped continues where it was: out/fuzz/ holds the number of inputs each reader has seen and
the inputs that reached new code. Remove the folder to start over.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

GUIDED, BLIND = "--guided-here", "--blind-here"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if GUIDED in sys.argv:
    import atheris

    with atheris.instrument_imports(include=["bidkv"]):
        from tests.reliability.readers import Reader, feed, readers
else:
    from tests.reliability.readers import Reader, feed, readers

# After the readers, which may be instrumented:
from tests.reliability.scratch import traces_in_memory  # noqa: E402
from tests.reliability.valid_inputs import HOSTILE  # noqa: E402

FOUND = Path("out/fuzz")
LONGEST_INPUT_BYTES = 8192
LONGEST_INPUT_S = 10
MOST_MEMORY_MIB = 1024
GUIDED_PART = 100
"""One input in so many is coverage-guided."""
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


def fuzz_guided(reader: Reader, inputs: int, seconds: int) -> None:
    """Fuzz by coverage in this process, which ends with it."""
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


def fuzz_blind(reader: Reader, inputs: int, seconds: int) -> None:
    """Change what is in the corpus at random places; prints the same figures as the guided fuzzer."""
    known = [*reader.seeds, *(file.read_bytes() for file in (FOUND / "corpus" / reader.name).iterdir())]
    rng = random.Random(os.urandom(8))
    most_bytes = 2 * MOST_MEMORY_MIB * 2**20  # of addresses, of which a part is never touched
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, most_bytes))
    signal.signal(signal.SIGALRM, _too_slow)
    deadline_s = time.monotonic() + seconds
    done = 0
    while done < inputs and time.monotonic() < deadline_s:
        content = changed(rng, rng.choice(known), known)
        signal.alarm(LONGEST_INPUT_S)
        try:
            feed(reader, content)
        except BaseException:
            (FOUND / f"{reader.name}-crash-{time.time_ns()}").write_bytes(content)
            raise
        done += 1
    signal.alarm(0)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert peak_mib < MOST_MEMORY_MIB, f"{peak_mib} MiB"
    print(f"stat::number_of_executed_units: {done}\nstat::peak_rss_mb: {peak_mib}", file=sys.stderr)


def changed(rng: random.Random, content: bytes, known: list[bytes]) -> bytes:
    """Replace up to four pieces by hostile values, random bytes, pieces of other inputs or nothing."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0:
                new = rng.choice(HOSTILE)
            case 1:
                new = rng.randbytes(rng.randint(1, 4))
            case 2:
                other = rng.choice(known)
                start = rng.randrange(len(other) + 1)
                new = other[start : start + rng.randint(1, 40)]
            case _:
                new = bytes([rng.choice(b'0123456789-+.eE,:;"{}[] \n')])
        content = content[:place] + new + content[place + rng.choice((0, 0, 1, 1, 2, 5, 20)) :]
    return content[:LONGEST_INPUT_BYTES]


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"an input that takes {LONGEST_INPUT_S} s")


def fuzz_apart(reader: Reader, inputs: int, seconds: int) -> bool:
    """Fuzz in other processes until `inputs` were seen; print what came of it, tell whether it was clean."""
    seen = Seen.load(reader.name)
    guided = inputs // GUIDED_PART
    deadline_s = time.monotonic() + seconds if seconds else float("inf")
    clean = True
    while clean and seen.inputs < inputs and (left_s := deadline_s - time.monotonic()) >= 1.0:
        started = time.perf_counter()
        way, until = (GUIDED, guided) if seen.inputs < guided else (BLIND, inputs)
        words = [
            sys.executable,
            __file__,
            way,
            "--inputs",
            str(min(SLICE_INPUTS, until - seen.inputs)),
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
            print("\n".join((done.stdout + done.stderr).splitlines()[-20:]))
    rate = seen.inputs / max(seen.seconds, 1e-9)
    print(
        f"{reader.name:20} {seen.inputs:>12,} inputs {seen.seconds:8.0f} s {rate:8,.0f}/s "
        f"{seen.peak_mib:>6} MiB  {'clean' if clean else 'CRASH'}",
        flush=True,
    )
    return clean


def main(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[READER]...", help="All unless named.")
    ] = None,
    inputs: Annotated[
        int, typer.Option(metavar="N", help="Inputs per reader, those of earlier runs included.")
    ] = 1_000_000,
    seconds: Annotated[int, typer.Option(metavar="S", help="Seconds per reader; 0 sets no limit.")] = 0,
    list_readers: Annotated[bool, typer.Option("--list", help="Print the names of the readers.")] = False,
    guided_here: Annotated[bool, typer.Option(GUIDED, hidden=True)] = False,
    blind_here: Annotated[bool, typer.Option(BLIND, hidden=True)] = False,
) -> None:
    """Fuzz the readers of outside input; exit code 1 after a crash."""
    known = {reader.name: reader for reader in readers()}
    if unknown := [name for name in names or [] if name not in known]:
        raise typer.BadParameter(f"no reader {unknown[0]!r}; there are {', '.join(known)}")
    if list_readers:
        print("\n".join(known))
        return
    FOUND.mkdir(parents=True, exist_ok=True)
    chosen = [known[name] for name in names or known]
    if guided_here or blind_here:
        logging.disable(logging.CRITICAL)
        if chosen[0].name.startswith("trace-"):
            traces_in_memory()
        here = fuzz_guided if guided_here else fuzz_blind
        here(chosen[0], inputs, seconds)
        return
    clean = [fuzz_apart(reader, inputs, seconds) for reader in chosen]
    if not all(clean):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
