"""Cells on several cores, or on several machines through one of joblib's backends."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

from bidkv.evaluation.processes import map_on_processes
from bidkv.experiments.driver import Done, DriverError, Task

Backend = Literal["loky", "ray", "dask"]
"""This machine (loky), or the cluster that is connected."""

BACKENDS: tuple[str, ...] = get_args(Backend)


def map_on_cores(
    jobs: int | None = None, backend: Backend = "loky"
) -> Callable[[Callable[[Task], Done], Iterable[Task]], Iterator[Done]]:
    """Return a function that maps another one over tasks with joblib and yields answers as they come.

    Args:
        jobs: number of processes; None uses every core (of the whole cluster with "ray" and "dask").
        backend: "loky" is this machine; "ray" and "dask" use the connected cluster, or a local one.

    Raises:
        DriverError: a package is missing; the message names it.
    """
    if jobs == 1 and backend == "loky":
        return map
    needed = {"loky": ["joblib"], "ray": ["joblib", "ray"], "dask": ["joblib", "distributed"]}[backend]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise DriverError(
                f"--backend {backend} needs {package}: pip install {package}, or --jobs 1 to do without"
            )
    return lambda function, tasks: _map(function, tasks, jobs, backend)


def _map(
    function: Callable[[Task], Done], tasks: Iterable[Task], jobs: int | None, backend: Backend
) -> Iterator[Done]:
    if backend == "loky":
        yield from map_on_processes(function, tasks, jobs or -1)
        return
    import joblib

    if backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        if not ray.is_initialized():
            ray.init(num_cpus=jobs, include_dashboard=False, log_to_driver=False)
        register_ray()
    else:
        connect_dask(jobs)
    # Ray's backend cannot yield answers as they come; running batch by batch bounds what a kill can lose.
    with joblib.parallel_config(backend=backend, n_jobs=jobs or -1):
        batch: list[Task] = []
        size = 4 * (jobs or os.cpu_count() or 1)
        for task in tasks:
            batch.append(task)
            if len(batch) == size:
                yield from joblib.Parallel()(joblib.delayed(function)(task) for task in batch)
                batch = []
        yield from joblib.Parallel()(joblib.delayed(function)(task) for task in batch)


def connect_dask(jobs: int | None) -> None:
    """Use the connected Dask cluster, or start one that other machines cannot reach."""
    from distributed import Client, get_client

    try:
        get_client()
    except ValueError:
        # Dask's dashboard listens on every interface unless told otherwise.
        Client(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
