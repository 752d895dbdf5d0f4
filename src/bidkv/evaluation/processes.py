"""Work on several cores of this machine, which Ctrl-C stops without a word from the processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Task = TypeVar("Task")
Done = TypeVar("Done")


def map_on_processes(function: Callable[[Task], Done], tasks: Iterable[Task], jobs: int) -> Iterator[Done]:
    """Yield the answers to the tasks as they come, in any order.

    Args:
        function: can be pickled, and so can its tasks and answers.
        tasks: what it is called with.
        jobs: processes; -1 takes all cores, and 1 is this process.
    """
    from joblib import Parallel, delayed

    work = Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)
    with new_processes_ignore_interrupts():
        answers = work(delayed(function)(task) for task in tasks)
    yield from answers


@contextmanager
def new_processes_ignore_interrupts() -> Iterator[None]:
    """Have the processes that start meanwhile ignore Ctrl-C, which a terminal sends to all of a command's.

    Each would answer with a traceback of its own. The process that started them ends them when it stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # where only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
