"""Checksums of the code that decides a score, so that scores stored by other code are not reused.

The engine, its workloads and the figures of a score have one checksum. Every policy has its own, over the
module that defines it and the modules it imports, so changing one policy keeps the scores of all others.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import bidkv
from bidkv.policy import resolve

_ROOT = Path(bidkv.__file__).parent
_ENGINE = (
    "control",
    "protocol",
    "policy/parts/classes.py",
    "profiles",
    "results",
    "simulator",
    "workloads",
    "tournament/scores.py",
    "tournament/session_scores.py",
)


@cache
def engine_fingerprint() -> str:
    """Return a checksum of everything except the policies."""
    files = set()
    for name in _ENGINE:
        entry = _ROOT / name
        files |= {entry} if entry.is_file() else {file for file in entry.rglob("*") if _counts(file)}
    return _digest(files)


@cache
def policy_fingerprint(spec: str) -> str:
    """Return a checksum of a policy's module and of the `bidkv` modules it imports, directly or not."""
    start = Path(inspect.getfile(type(resolve(spec)))).resolve()
    seen: set[Path] = set()
    open_files = [start]
    while open_files:
        file = open_files.pop()
        if file not in seen:
            seen.add(file)
            open_files.extend(_imported(file))
    return _digest(seen)


def _counts(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts


def _imported(file: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            package, *path = node.module.split(".")
            if package == "bidkv":
                base = _ROOT.joinpath(*path)
                candidates = [base.with_suffix(".py"), base / "__init__.py"]
                candidates += [base / f"{alias.name}.py" for alias in node.names]
                yield from (candidate.resolve() for candidate in candidates if candidate.is_file())


def _digest(files: set[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
