"""Conversations of several turns: every prompt repeats what was said, so prefixes are shared."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from random import Random

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads.generators.laws import Lognormal
from bidkv.workloads.generators.lengths import check_count, check_total
from bidkv.workloads.traces.limits import HASH_CHUNK_TOKENS


@dataclass(slots=True)
class _Session:
    """One conversation: its history in tokens, and the ids of the history's full chunks."""

    agent_id: str
    history_tokens: int
    chunk_ids: list[int] = field(default_factory=list)


def multi_turn(
    times_s: Iterator[float],
    random: Random,
    *,
    mean_turns: float = 4.0,
    mean_think_s: float = 20.0,
    system_prompts: int = 4,
    system_tokens: int = 1024,
    user_median: float = 60.0,
    user_sigma: float = 1.0,
    output_median: float = 220.0,
    output_sigma: float = 0.8,
    max_total_tokens: int = 8192,
) -> Iterator[WorkloadRequest]:
    """Yield the requests of many conversations, one for each arrival time.

    A conversation starts with one of `system_prompts` system prompts of `system_tokens`; each turn's prompt
    is the whole history plus a new message. After a turn it ends with probability 1 / `mean_turns`, or when
    it would outgrow `max_total_tokens`; otherwise it is ready again after an exponential think time of mean
    `mean_think_s` (counted from the arrival: an open loop knows no finish). An arrival goes to the
    conversation that has been ready longest, or starts a new one when none is ready, so that the stated rate
    holds from the first request to the last.

    `hash_ids` follow Mooncake: one id for each 512 prompt tokens, equal exactly where the prompts are equal
    from their start; the last, partial chunk has an id of its own. `agent_id` names the system prompt.

    Args:
        times_s: of the arrivals, in order; seconds.
        random: drawn from.
        mean_turns: of a conversation that is not cut off by `max_total_tokens`, from 1 to 1,000.
        mean_think_s: seconds, above 0.
        system_prompts: number of different ones, from 1 to 10,000.
        system_tokens: length of each, at most half of `max_total_tokens`.
        user_median: tokens of a new message, which is lognormal; likewise `output_median` of an answer.
        user_sigma: standard deviation of its natural logarithm; likewise `output_sigma`.
        max_total_tokens: the longest a conversation becomes, its last answer included.

    Raises:
        ValueError: an argument out of range.
    """
    if not (1 <= mean_turns <= 1000 and 0 < mean_think_s <= 1e6):
        raise ValueError(
            f"multi_turn needs mean_turns from 1 to 1000 and 0 < mean_think_s <= 1e6, not {mean_turns!r}, "
            f"{mean_think_s!r}"
        )
    check_count("system_prompts", system_prompts, 1, 10_000)
    check_total(max_total_tokens)
    check_count("system_tokens", system_tokens, 1, max_total_tokens // 2)
    user = Lognormal(user_median, user_sigma, low=4)
    answer = Lognormal(output_median, output_sigma, low=4)
    fresh_ids = count()
    full = system_tokens // HASH_CHUNK_TOKENS
    system_ids = [[next(fresh_ids) for _ in range(full)] for _ in range(system_prompts)]
    ready: list[tuple[float, int, _Session]] = []

    for index, now_s in enumerate(times_s):
        if ready and ready[0][0] <= now_s:
            session = heapq.heappop(ready)[2]
        else:
            which = random.randrange(system_prompts)
            session = _Session(f"app-{which}", system_tokens, list(system_ids[which]))
        room = max_total_tokens - session.history_tokens
        message = user.draw(random, room - answer.low)
        prompt = session.history_tokens + message
        output = answer.draw(random, max_total_tokens - prompt)
        while len(session.chunk_ids) < prompt // HASH_CHUNK_TOKENS:
            session.chunk_ids.append(next(fresh_ids))
        partial = (next(fresh_ids),) if prompt % HASH_CHUNK_TOKENS else ()
        yield WorkloadRequest(
            f"r{index}",
            now_s,
            prompt,
            output,
            hash_ids=(*session.chunk_ids, *partial),
            agent_id=session.agent_id,
        )
        session.history_tokens = prompt + output
        ends = random.random() * mean_turns < 1.0
        think_s = random.expovariate(1.0 / mean_think_s)
        # A turn needs room for the shortest message and answer; half the median keeps it a real turn.
        if not ends and max_total_tokens - session.history_tokens >= (user_median + output_median) / 2:
            heapq.heappush(ready, (now_s + think_s, index, session))
