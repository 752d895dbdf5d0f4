"""Laws of traffic beside ordinary chat: long, bimodal, opposite, shared, bursty, drifting and switching.

Each function makes requests of one seed. The seed also draws the law's own figures (how long, how many, when
it switches), so that one rule's constants cannot fit a single mix. At an infinite rate all are queued at the
start, as in a batch, a rollout or a restart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

from bidkv.protocol.requests import WorkloadRequest

CHUNK_TOKENS = 512
"""Prompt tokens that one prefix id stands for."""


class Lengths(NamedTuple):
    """What one request needs.

    Attributes:
        prompt: tokens.
        output: tokens.
        hash_ids: of its prompt's chunks of :data:`CHUNK_TOKENS`, in order; () when it shares nothing.
    """

    prompt: int
    output: int
    hash_ids: tuple[int, ...] = ()


Law = Callable[[int, Random], Iterator[Lengths]]
"""Gives the lengths of n requests, in order of arrival."""


def make_requests(law: Law, n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
    """Return `n` requests of `law` as a Poisson process, the first at 0 s.

    Args:
        law: draws their lengths.
        n: how many.
        rate_rps: requests a second; infinity puts all of them at 0 s.
        seed: of lengths and arrivals, each with a stream of its own.
    """
    name = law.__name__
    gaps = Random(f"{name}:{seed}:arrivals")
    now_s, requests = 0.0, []
    for index, (prompt, output, ids) in enumerate(law(n, Random(f"{name}:{seed}"))):
        requests.append(WorkloadRequest(f"r{index}", now_s, prompt, output, hash_ids=ids))
        now_s += gaps.expovariate(rate_rps) if rate_rps < math.inf else 0.0
    return requests


def make_client_bursts(n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
    """Chat as a Poisson process, and one client that sends 20 to 120 alike requests at one moment.

    About half of all requests are the client's. Its bursts come at moments of the chat, so the mean rate of
    both together is `rate_rps`.
    """
    random, gaps = Random(f"bursts:{seed}"), Random(f"bursts:{seed}:arrivals")
    size = random.randint(20, 120)
    prompt, output = random.randint(200, 2000), random.randint(50, 1200)
    chat_rps = rate_rps / 2
    now_s = 0.0
    arrivals: list[tuple[float, Lengths]] = []
    while len(arrivals) < n:
        arrivals.append((now_s, _chat(random)))
        if random.random() < 1 / size:
            arrivals += [(now_s, Lengths(prompt, _near(random, output, 0.2))) for _ in range(size)]
        now_s += gaps.expovariate(chat_rps) if chat_rps < math.inf else 0.0
    return [
        WorkloadRequest(f"r{index}", at_s, lengths.prompt, lengths.output)
        for index, (at_s, lengths) in enumerate(arrivals[:n])
    ]


def long_generation(n: int, random: Random) -> Iterator[Lengths]:
    """Short prompts that all generate about as many tokens, 1,000 to 5,000: writing, rollouts."""
    prompt, output = random.randint(50, 400), random.randint(1000, 5000)
    width = random.choice((0.0, 0.1, 0.3))
    for _ in range(n):
        yield Lengths(_near(random, prompt, 0.2), _near(random, output, width))


def bimodal_thinking(n: int, random: Random) -> Iterator[Lengths]:
    """Short prompts; 2 to 12 % of them think for thousands of tokens, and nothing tells which."""
    share, thinking = random.uniform(0.02, 0.12), random.randint(2500, 7000)
    answer = random.randint(60, 300)
    for _ in range(n):
        output = _near(random, thinking, 0.1) if random.random() < share else _near(random, answer, 0.8)
        yield Lengths(random.randint(100, 200), output)


def opposite_classes(n: int, random: Random) -> Iterator[Lengths]:
    """Long prompts with short answers beside short prompts with long answers."""
    share = random.uniform(0.3, 0.7)
    prompt, output = random.randint(2500, 6000), random.randint(900, 2500)
    for _ in range(n):
        if random.random() < share:
            yield Lengths(_near(random, prompt, 0.15), random.randint(20, 60))
        else:
            yield Lengths(random.randint(50, 150), _near(random, output, 0.25))


def group_rollouts(n: int, random: Random) -> Iterator[Lengths]:
    """Groups of 4, 8 or 16 samples of one prompt, whose outputs have a heavy tail."""
    samples = random.choice((4, 8, 16))
    median = random.randint(300, 1500)
    prompt = 1
    ids: tuple[int, ...] = ()
    for index in range(n):
        if index % samples == 0:
            prompt = random.randint(100, 1500)
            ids = _fresh_ids(index, prompt)
        output = min(max(int(random.lognormvariate(math.log(median), 0.8)), 16), 6000)
        yield Lengths(prompt, output, ids)


def documents_beside_chat(n: int, random: Random) -> Iterator[Lengths]:
    """Chat, and 5 to 25 % questions about documents of 4,000 to 7,500 tokens, several about each."""
    share, questions = random.uniform(0.05, 0.25), random.randint(1, 6)
    prompt, asked = 0, 0
    ids: tuple[int, ...] = ()
    for index in range(n):
        if random.random() >= share:
            yield _chat(random)._replace(hash_ids=())
            continue
        if asked % questions == 0:
            prompt = random.randint(4000, 7500)
            ids = _fresh_ids(index, prompt)
        asked += 1
        yield Lengths(prompt, random.randint(50, 400), ids)


def drifting_lengths(n: int, random: Random) -> Iterator[Lengths]:
    """Outputs that grow (or shrink) tenfold over the run while prompts do the opposite: day and night."""
    shrinks = random.random() < 0.5
    low, high = random.randint(80, 150), random.randint(900, 1600)
    for index in range(n):
        place = index / n
        place = 1 - place if shrinks else place
        output, prompt = low * (high / low) ** place, 2000 * (100 / 2000) ** place
        yield Lengths(_near(random, int(prompt), 0.4), _near(random, int(output), 0.6))


def switching_laws(n: int, random: Random) -> Iterator[Lengths]:
    """Four stretches, each of another law: a tenant leaves and another comes."""
    laws = [_chat, _completion, _reasoning, _summary]
    random.shuffle(laws)
    for index in range(n):
        yield laws[index * len(laws) // n](random)


def _chat(random: Random) -> Lengths:
    return Lengths(_lognormal(random, 300, 0.9, 3000), _lognormal(random, 220, 0.8, 2000))


def _completion(random: Random) -> Lengths:
    return Lengths(_lognormal(random, 1800, 0.6, 6000), _lognormal(random, 30, 0.8, 300))


def _reasoning(random: Random) -> Lengths:
    return Lengths(_lognormal(random, 120, 0.5, 800), _lognormal(random, 1500, 0.5, 6000))


def _summary(random: Random) -> Lengths:
    return Lengths(_lognormal(random, 3500, 0.4, 6500), _lognormal(random, 250, 0.4, 1000))


def _lognormal(random: Random, median: int, sigma: float, most: int) -> int:
    return min(max(int(random.lognormvariate(math.log(median), sigma)), 4), most)


def _near(random: Random, middle: int, width: float) -> int:
    """Return a whole number within `width` (a share) of `middle`, at least 1."""
    return max(1, round(middle * random.uniform(1 - width, 1 + width)))


def _fresh_ids(index: int, prompt_tokens: int) -> tuple[int, ...]:
    """Return ids of chunks that no prompt begun at another index has."""
    chunks = math.ceil(prompt_tokens / CHUNK_TOKENS)
    return tuple(range(index * 16, index * 16 + chunks))
