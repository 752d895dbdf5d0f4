"""Synthetic workloads by name: a kind of traffic, a seed, and for single requests a rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import chain, islice
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.sessions import Session
from bidkv.workloads.generators import lengths
from bidkv.workloads.generators.multi_turn import multi_turn
from bidkv.workloads.generators.sessions import SESSION_GENERATORS, agents
from bidkv.workloads.traces.arrivals import arrival_times_s

_LENGTHS: dict[str, Callable[..., lengths.Lengths]] = {
    "mixed": lengths.mixed,
    "bursty": lengths.mixed,
    "code_completion": lengths.code_completion,
    "long_context": lengths.long_context,
    "reasoning": lengths.reasoning,
    "sharegpt_like": lengths.sharegpt_like,
    "uniform": lengths.uniform,
}
_DEFAULT_CV = {"bursty": 3.0}


def available_workloads() -> tuple[str, ...]:
    """Return the names :func:`generate` knows.

    >>> available_workloads()[:3]
    ('bursty', 'code_completion', 'long_context')
    """
    return tuple(sorted([*_LENGTHS, "multi_turn"]))


def generate(
    name: str, *, n: int, rate_rps: float, seed: int, cv: float | None = None, **params: float
) -> Iterator[WorkloadRequest]:
    """Stream a synthetic workload, in order of arrival.

    Lengths and arrivals have random sources of their own: the same seed at another rate gives the same
    requests, arriving in the same pattern. `multi_turn` keeps the pattern only, since which conversation is
    ready next depends on the time.

    Args:
        name: one of :func:`available_workloads`. "bursty" is "mixed" with gaps of cv 3.
        n: how many requests.
        rate_rps: mean arrivals a second; infinity lets all arrive at 0 s. The first arrives at 0 s.
        seed: decides everything that is random.
        cv: coefficient of variation of the gaps between arrivals (Gamma distributed; 1, the default, is
            Poisson).
        params: what the kind of traffic takes, see the functions of :mod:`.lengths` and :mod:`.multi_turn`.

    Raises:
        ValueError: an unknown name or parameter, or a value out of range.
    """
    source: Callable[..., object] | None = multi_turn if name == "multi_turn" else _LENGTHS.get(name)
    if source is None:
        raise ValueError(f"unknown workload {name!r}; there are: {', '.join(available_workloads())}")
    _check_arguments(name, n, params, ["cv", *_keywords(source)])
    variation = _DEFAULT_CV.get(name, 1.0) if cv is None else cv
    times_s = arrival_times_s(rate_rps, Random(f"{seed}:arrivals"), "gamma", variation)
    random = Random(f"{seed}:requests")
    make: Callable[..., Iterator[WorkloadRequest]] = multi_turn
    if name == "multi_turn":
        requests = make(times_s, random, **params)
    else:
        requests = _requests(times_s, _LENGTHS[name](random, **params))
    # Drawn here, so that a value out of range is an error of this call and not of a loop far away.
    first = next(requests)
    return chain([first], islice(requests, n - 1))


def available_session_workloads() -> tuple[str, ...]:
    """Return the names :func:`generate_sessions` knows.

    >>> available_session_workloads()
    ('agents', 'chat-sessions', 'mixed-sessions', 'rollouts')
    """
    return tuple(sorted(SESSION_GENERATORS))


def generate_sessions(name: str, *, n: int, seed: int, **params: float) -> Iterator[Session]:
    """Stream the sessions of a synthetic workload; when they start is up to the arrival process.

    Args:
        name: one of :func:`available_session_workloads`.
        n: how many sessions.
        seed: decides everything that is random.
        params: what the kind of session takes, see the functions of :mod:`.sessions`.

    Raises:
        ValueError: an unknown name or parameter, or a value out of range.
    """
    source = SESSION_GENERATORS.get(name)
    if source is None:
        known = ", ".join(available_session_workloads())
        raise ValueError(f"unknown session workload {name!r}; there are: {known}")
    known_params = _keywords(source)
    if name == "mixed-sessions":
        known_params += _keywords(agents)
    _check_arguments(name, n, params, known_params)
    sessions = source(Random(f"{seed}:sessions"), **params)
    # Drawn here, so that a value out of range is an error of this call and not of a loop far away.
    first = next(sessions)
    return chain([first], islice(sessions, n - 1))


def _keywords(source: Callable[..., object]) -> list[str]:
    return [p.name for p in inspect.signature(source).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _check_arguments(name: str, n: int, params: dict[str, float], known: list[str]) -> None:
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ValueError(f"workload {name!r} has no parameter {unknown[0]!r}; it has: {', '.join(known)}")
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n!r}")


def _requests(times_s: Iterator[float], pairs: lengths.Lengths) -> Iterator[WorkloadRequest]:
    for index, (now_s, (prompt, output)) in enumerate(zip(times_s, pairs, strict=False)):
        yield WorkloadRequest(f"r{index}", now_s, prompt, output)
