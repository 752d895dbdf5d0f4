"""vLLM's scheduling modules with their sources changed, as another version might have them."""

from __future__ import annotations

import importlib
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType
from typing import Any

Change = tuple[str, str]
"""A regular expression and what every match of it becomes."""


def _changeable() -> list[str]:
    return [name for name in sys.modules if re.match(r"vllm\.v1\.(core(\.|$)|request$)", name)]


class _ChangingLoader(SourceFileLoader):
    """Compiles a module from changed text; nothing is written."""

    changes: Sequence[Change] = ()
    counts: list[int]

    def get_code(self, fullname: str) -> CodeType:
        text = self.get_source(fullname) or ""
        for number, (pattern, replacement) in enumerate(self.changes):
            text, count = re.subn(pattern, replacement, text)
            self.counts[number] += count
        return compile(text, self.get_filename(fullname), "exec", dont_inherit=True)


class _Finder:
    """Finds the modules that are loaded anew."""

    def __init__(self, names: Sequence[str], changes: Sequence[Change]) -> None:
        self._names = set(names)
        self._changes = changes
        self.counts = [0] * len(changes)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        loader = _ChangingLoader(name, str(spec.origin))
        loader.changes, loader.counts = self._changes, self.counts
        spec.loader = loader
        return spec


@contextmanager
def changed_vllm(changes: Sequence[Change]) -> Iterator[type[Any]]:
    """Let `vllm.v1.core` and `vllm.v1.request` be other modules for a while; yields their `Scheduler`.

    Raises:
        AssertionError: a change matches nowhere.
    """
    names = _changeable()
    saved = {name: sys.modules.pop(name) for name in names}
    finder: Any = _Finder(names, changes)
    sys.meta_path.insert(0, finder)
    try:
        scheduler = importlib.import_module("vllm.v1.core.sched.scheduler")
        importlib.import_module("vllm.v1.core.sched.async_scheduler")
        unmatched = [change for change, count in zip(changes, finder.counts, strict=True) if not count]
        assert not unmatched
        yield scheduler.Scheduler
    finally:
        sys.meta_path.remove(finder)
        for name in _changeable():
            del sys.modules[name]
        sys.modules.update(saved)
        for name, module in saved.items():
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)


def serve(scheduler: Any, requests: Sequence[Any]) -> list[tuple[tuple[str, int], ...]]:
    """Serve requests with as little of vLLM's interface as there is; return the tokens of each step."""
    from vllm.v1.outputs import ModelRunnerOutput

    for request in requests:
        scheduler.add_request(request)
    steps: list[tuple[tuple[str, int], ...]] = []
    waiting: deque[Any] = deque()
    while scheduler.has_unfinished_requests():
        assert len(steps) < 1000
        answer = scheduler.schedule()
        output = answer[0] if isinstance(answer, tuple) else answer
        steps.append(tuple(output.num_scheduled_tokens.items()))
        names = list(output.num_scheduled_tokens)
        known = [scheduler.requests.get(name) for name in names]
        waiting.append(
            (
                output,
                ModelRunnerOutput(
                    req_ids=names,
                    req_id_to_index={name: index for index, name in enumerate(names)},
                    sampled_token_ids=[[] if one is None or one.is_prefill_chunk else [7] for one in known],
                ),
            )
        )
        scheduler.update_from_output(*waiting.popleft())
    return steps
