"""Named workload families for comparing policies: many kinds of traffic, split into tuning and held out.

A policy may be tuned on seeds below `held_out_from` and is judged on seeds from there on. Families of real
data split the data as well: tuning seeds draw from the first half of a shipped trace's rows, held-out seeds
from the second half, so that no row is seen in both. `families.json` names the seeds and pins what they
give; `python scripts/pin_families.py` prints it anew.

No request of any family needs more than 8,192 tokens, so that all fit a cache of 600 blocks of 16.

    >>> requests = FAMILIES["mixed"](n=100, rate_rps=2.0, seed=split_seeds("held_out")[0])
    >>> len(requests), max(r.prompt_tokens + r.output_tokens for r in requests) <= MAX_TOTAL_TOKENS
    (100, True)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from random import Random
from types import MappingProxyType
from typing import Any, Literal

from bidkv.protocol.requests import WorkloadRequest
from bidkv.workloads import generate, outside_chat
from bidkv.workloads.traces import read_trace
from bidkv.workloads.traces.arrivals import arrival_times_s, check_rate

MAX_TOTAL_TOKENS = 8192

Split = Literal["tuning", "held_out"]
_Make = Callable[[int, float, int], list[WorkloadRequest]]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of traffic; call it for requests.

    Attributes:
        name: unique among families.
        about: one line for people.
        make: the function behind it.
    """

    name: str
    about: str
    make: _Make

    def __call__(self, n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
        """Return `n` requests in order of arrival, the first at 0 s, at a mean rate of `rate_rps`.

        The same arguments give the same requests; `seed` decides the split too, see :func:`is_held_out`.

        Raises:
            ValueError: n below 1, a negative seed, or a rate out of range.
        """
        if n < 1 or seed < 0:
            raise ValueError(f"n must be at least 1 and seed at least 0, not {n!r} and {seed!r}")
        check_rate(rate_rps)
        return self.make(n, rate_rps, seed)


@cache
def read_pins() -> Mapping[str, Any]:
    """Return the content of `families.json`: `held_out_from`, `seeds`, `fingerprints` of both kinds."""
    content = json.loads(files("bidkv.workloads").joinpath("families.json").read_text())
    return MappingProxyType(content)


def split_seeds(split: Split) -> tuple[int, ...]:
    """Return the seeds with which tournaments tune policies, or judge them; they are pinned in a file."""
    return tuple(read_pins()["seeds"][split])


def is_held_out(seed: int) -> bool:
    """Tell whether requests of `seed` are for judging only: no policy may be tuned on them."""
    return bool(seed >= read_pins()["held_out_from"])


def fingerprint(requests: Sequence[WorkloadRequest]) -> str:
    """Return a short checksum of lengths and prefixes (arrivals could differ in a last digit by platform)."""
    content = repr([(r.prompt_tokens, r.output_tokens, r.hash_ids) for r in requests])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def _synthetic(name: str, **params: float) -> _Make:
    def make(n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
        # Families made by one generator must not share requests, or one lucky draw counts twice.
        own_seed = Random(f"{name}:{params}:{seed}").getrandbits(48)
        return list(generate(name, n=n, rate_rps=rate_rps, seed=own_seed, **params))

    return make


def _uniform(prompt_high: int, output_high: int) -> _Make:
    return _synthetic(
        "uniform", prompt_low=10, prompt_high=prompt_high, output_low=10, output_high=output_high
    )


@cache
def _halves(trace: str) -> tuple[tuple[WorkloadRequest, ...], tuple[WorkloadRequest, ...]]:
    rows = tuple(read_trace(trace, rate_rps=1.0))
    middle = len(rows) // 2
    first, second = (
        tuple(r for r in half if r.prompt_tokens + r.output_tokens <= MAX_TOTAL_TOKENS)
        for half in (rows[:middle], rows[middle:])
    )
    return first, second


def _sampled(trace: str, cv: float = 1.0) -> _Make:
    """Lengths drawn from the seed's half with replacement; Gamma arrivals of the given cv."""

    def make(n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
        rows = _halves(trace)[is_held_out(seed)]
        times_s = arrival_times_s(rate_rps, Random(f"{seed}:arrivals"), "gamma", cv)
        chosen = Random(f"{seed}:requests").choices(rows, k=n)
        return [
            WorkloadRequest(f"r{index}", now_s, row.prompt_tokens, row.output_tokens)
            for index, (row, now_s) in enumerate(zip(chosen, times_s, strict=False))
        ]

    return make


def _replayed(trace: str) -> _Make:
    """The seed's half in its own order and rhythm, from a row the seed chooses, starting over at its end.

    Every lap gets new chunk ids, since a replay stands for other users with the same habits.
    """

    def make(n: int, rate_rps: float, seed: int) -> list[WorkloadRequest]:
        rows = _halves(trace)[is_held_out(seed)]
        start = Random(f"{seed}:window").randrange(len(rows))
        ids_a_lap = 1 + max((i for r in rows for i in r.hash_ids), default=0)
        # The gap from the last row to the first is not recorded; the mean gap stands for it.
        lap_s = (rows[-1].arrival_s - rows[0].arrival_s) * len(rows) / (len(rows) - 1)
        window = []
        for lap, place in (divmod(start + index, len(rows)) for index in range(n)):
            row = rows[place]
            ids = tuple(i + lap * ids_a_lap for i in row.hash_ids)
            window.append(replace(row, arrival_s=row.arrival_s + lap * lap_s, hash_ids=ids))
        first_s, span_s = window[0].arrival_s, window[-1].arrival_s - window[0].arrival_s
        stretch = (n - 1) / (rate_rps * span_s) if span_s > 0 else 0.0
        return [
            replace(row, request_id=f"r{index}", arrival_s=round((row.arrival_s - first_s) * stretch, 6))
            for index, row in enumerate(window)
        ]

    return make


def _law(law: outside_chat.Law) -> _Make:
    return partial(outside_chat.make_requests, law)


_ORDINARY = (
    Family("azure-conv", "Azure conversation service, its own rhythm", _replayed("azure-conv")),
    Family("azure-conv-bursty", "Azure conversation lengths in bursts, cv 4", _sampled("azure-conv", cv=4.0)),
    Family("mooncake-conv", "Mooncake conversations, own rhythm and prefixes", _replayed("mooncake-conv")),
    Family("sharegpt", "ShareGPT lengths, Poisson", _sampled("sharegpt-lengths")),
    Family("arxiv", "arXiv summarization lengths, Poisson", _sampled("arxiv-lengths")),
    Family("mixed", "chat beside document questions", _synthetic("mixed")),
    Family("long-context", "long documents, moderate answers", _synthetic("long_context")),
    # The three laws that theory was checked against on a real server (Nie et al., ICML 2026).
    Family("uniform-1-1", "U(10,1600) x U(10,1600)", _uniform(1600, 1600)),
    Family("uniform-2-1", "U(10,2133) x U(10,1066)", _uniform(2133, 1066)),
    Family("uniform-1-2", "U(10,1066) x U(10,2133)", _uniform(1066, 2133)),
    Family("bursty-cv2", "mixed in bursts, cv 2", _synthetic("mixed", cv=2.0)),
    Family("bursty-cv4", "mixed in bursts, cv 4", _synthetic("mixed", cv=4.0)),
    Family("chat-shared-prefix", "conversations with shared system prompts", _synthetic("multi_turn")),
    Family(
        "agents-shared-prefix",
        "many short turns behind a long system prompt",
        _synthetic("multi_turn", system_tokens=3072, mean_turns=8.0, mean_think_s=5.0, output_median=80.0),
    ),
    Family("code", "much context, short completions", _synthetic("code_completion")),
    Family("reasoning", "short questions, long answers", _synthetic("reasoning")),
)

_OUTSIDE_CHAT = (
    Family("long-generation", "short prompts, answers of thousands", _law(outside_chat.long_generation)),
    Family("bimodal-thinking", "a few think for thousands", _law(outside_chat.bimodal_thinking)),
    Family("opposite-classes", "long prompts, or long answers", _law(outside_chat.opposite_classes)),
    Family("group-rollouts", "samples of one prompt, heavy tail", _law(outside_chat.group_rollouts)),
    Family("documents", "documents beside chat", _law(outside_chat.documents_beside_chat)),
    Family("client-bursts", "chat, and one client's bursts", outside_chat.make_client_bursts),
    Family("drifting", "lengths drift tenfold", _law(outside_chat.drifting_lengths)),
    Family("switching", "four laws, one after another", _law(outside_chat.switching_laws)),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (*_ORDINARY, *_OUTSIDE_CHAT)}
)

FAMILY_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ordinary": tuple(family.name for family in _ORDINARY),
        "outside-chat": tuple(family.name for family in _OUTSIDE_CHAT),
    }
)
"""Names that stand for several families."""
