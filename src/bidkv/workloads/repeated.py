"""A workload made longer than its record: the same traffic again, each time from another starting point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.protocol.texts import plain_number

MOST_REQUESTS = 100_000_000
"""Most requests of a repeated workload: weeks of a large fleet. More is taken for a typing error."""


def repeat_for(
    requests: Iterable[WorkloadRequest], duration_s: float, seed: int
) -> Iterator[WorkloadRequest]:
    """Yield a workload until `duration_s` have passed since its first arrival.

    The first pass is the workload as it is. Every later pass starts at a request drawn with the seed, runs to
    the end of the record and continues at its beginning. Gaps, lengths and their order are kept, so bursts
    and drift stay those of the record while the hours differ. A request's name gets the number of its pass;
    `hash_ids` are shared within a pass only.

    Args:
        requests: in the order of arrival; held as a whole, which the result is not.
        duration_s: above 0.
        seed: of the starting points.

    Raises:
        ValueError: a duration that is not above 0, nothing whose span of time could be repeated, or more than
            100 million requests.
    """
    if not duration_s > 0.0:
        raise ValueError(f"the duration must be above 0 s, got {duration_s}")
    one = list(requests)
    span_s = one[-1].arrival_s - one[0].arrival_s if one else 0.0
    if not span_s > 0.0:
        raise ValueError("only requests that arrive at different times can be repeated")
    expected = duration_s / span_s * (len(one) - 1)
    if expected > MOST_REQUESTS:
        raise ValueError(
            f"{plain_number(duration_s, 6)} s of this workload are about {plain_number(expected, 3)} "
            f"requests, at most {MOST_REQUESTS:,} are taken"
        )
    return _passes(one, span_s, duration_s, Random(seed))


def _passes(
    one: list[WorkloadRequest], span_s: float, duration_s: float, random: Random
) -> Iterator[WorkloadRequest]:
    first_s = one[0].arrival_s
    # From the last request to the first of the next pass: a mean gap.
    period_s = span_s * len(one) / (len(one) - 1)
    ids = 1 + max((hash_id for request in one for hash_id in request.hash_ids), default=-1)
    number = turn = 0
    while True:
        start_s = one[turn].arrival_s
        for place in range(turn, turn + len(one)):
            request = one[place % len(one)]
            at_s = number * period_s + request.arrival_s - start_s + (period_s if place >= len(one) else 0.0)
            if at_s >= duration_s:
                return
            if number:
                request = replace(
                    request,
                    request_id=f"{request.request_id}.{number}",
                    hash_ids=tuple(hash_id + number * ids for hash_id in request.hash_ids),
                )
            yield replace(request, arrival_s=first_s + at_s)
        number += 1
        turn = random.randrange(len(one))
