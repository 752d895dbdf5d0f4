"""Other days like the one that a trace holds: stretches of its requests, put together anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from bidkv.protocol.requests import WorkloadRequest

_STRETCH = 100
"""Requests of a stretch, whose order, gaps and lengths stay as they are: bursts of seconds stay bursts."""

_FEWEST_STRETCHES = 20
"""A short trace is cut into at least so many stretches."""

_REACH = 4
"""A stretch is replaced by one at most so many stretches away, so that busy hours stay where they were."""


def join_stretches(requests: Sequence[WorkloadRequest], stretches: Iterable[range]) -> list[WorkloadRequest]:
    """Return stretches of requests, one after the other; each request keeps its gap to the one before it.

    Args:
        requests: in the order of arrival. The first one's gap is taken to be the second one's.
        stretches: positions in `requests`; one may come more than once, so requests get new ids.
    """
    gaps = [b.arrival_s - a.arrival_s for a, b in pairwise(requests)]
    gaps.insert(0, gaps[0] if gaps else 0.0)
    joined: list[WorkloadRequest] = []
    now_s = 0.0
    for stretch in stretches:
        for index in stretch:
            now_s += gaps[index]
            joined.append(replace(requests[index], request_id=f"s{len(joined)}", arrival_s=now_s))
    return joined


def resample(requests: Sequence[WorkloadRequest], seed: int) -> list[WorkloadRequest]:
    """Return a day like that of `requests`, with chance of its own (a moving block bootstrap).

    Every stretch is replaced by one near it: by itself, by a neighbour, or by one that another place got as
    well. So lengths and bursts vary as in a sample of this size, and busy hours stay where they are.

    Args:
        requests: in the order of arrival.
        seed: of the choice.
    """
    random, number = Random(seed), len(requests)
    length = max(min(_STRETCH, number // _FEWEST_STRETCHES), 1)
    last = -(-number // length) - 1
    chosen = (min(max(place + random.randint(-_REACH, _REACH), 0), last) for place in range(last + 1))
    return join_stretches(requests, (range(c * length, min((c + 1) * length, number)) for c in chosen))


def thin_days(
    requests: Sequence[WorkloadRequest], number: int, seed: int, *, part: int = 1
) -> list[WorkloadRequest]:
    """Return at least `number` requests: every `part`-th one, for as many whole days as that takes.

    Each day starts with the next request, so that all of them take part. When each had its turn, days like
    theirs follow (:func:`resample`). So arrivals keep their rhythm, and a short trace is no short test.

    Args:
        requests: in the order of arrival, at least one: a day.
        number: the fewest that are enough.
        seed: of the days that are drawn anew.
        part: which share of the requests arrives.
    """
    first_s = requests[0].arrival_s
    day_s = (requests[-1].arrival_s - first_s) * len(requests) / max(len(requests) - 1, 1)
    joined: list[WorkloadRequest] = []
    start_s, day = first_s, 0
    while len(joined) < number:
        chosen = requests[day % part :: part]
        if day >= part:
            chosen = resample(chosen, seed + day)
        for request in chosen:
            arrival_s = start_s + request.arrival_s - first_s
            joined.append(replace(request, request_id=f"d{len(joined)}", arrival_s=arrival_s))
        start_s = max(start_s + day_s, joined[-1].arrival_s)
        day += 1
    return joined
