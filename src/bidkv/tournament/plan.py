"""The plan of a tournament: policies, families, loads, memory sizes and seeds, checked before any run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from bidkv.baselines import ENGINE_ORDER
from bidkv.policy import available, resolve
from bidkv.profiles import DEFAULT_PROFILE
from bidkv.simulator import EngineConfig
from bidkv.workloads.families import FAMILIES, Split, split_seeds

BASELINE = ENGINE_ORDER
"""vLLM's own order: saturation is measured under it, and every figure is relative to it."""

RECOMMENDED = ("fair", "fast", "on-time")
"""This project's own: pictures name them, and docs/results/single-requests.md lists every cell they lose."""

LOADS = (0.8, 0.95, 1.1, 1.3)
"""Arrival rates, as shares of the throughput at saturation."""

VARIANTS = (
    "watermark:f=0.01",
    "watermark:f=0.05",
    "watermark:f=0.1",
    "past-future:kept_free=0;scenarios=1",
)
"""Published rules whose option matters take part with several values of it."""

MAX_NUM_BATCHED_TOKENS = 2048
"""Token budget of a step at every memory size: the budget at which the default profile was recorded."""

PROFILE = DEFAULT_PROFILE
"""Step times of the simulated engine, unless a caller names another profile."""


@dataclass(frozen=True, slots=True)
class MemorySize:
    """One size of the KV cache.

    Attributes:
        name: its name in tables.
        num_gpu_blocks: KV blocks of 16 tokens, the engine's null block included.
        max_num_seqs: most requests running at once.
        requests: requests of one run; they fill the memory many times over.
    """

    name: str
    num_gpu_blocks: int
    max_num_seqs: int
    requests: int

    @property
    def engine(self) -> EngineConfig:
        """The engine of this size. Prefix caching is off, so `hash_ids` of requests change nothing."""
        return EngineConfig(
            num_gpu_blocks=self.num_gpu_blocks,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        )


SIZES: Mapping[str, MemorySize] = MappingProxyType(
    {
        size.name: size
        for size in (
            MemorySize("T", 600, 32, 1000),
            MemorySize("1500", 1500, 64, 1500),
            MemorySize("4096", 4096, 128, 2500),
            MemorySize("M", 8192, 256, 4000),
        )
    }
)


def all_policies() -> list[str]:
    """Return every registered policy by name, and the variants of published ones."""
    return [*available(), *VARIANTS]


class TournamentCell(NamedTuple):
    """One workload on one engine, which every policy runs."""

    size: str
    family: str
    load: float
    seed: int


class CellGroup(NamedTuple):
    """The cells of all loads that share one measurement of saturation."""

    size: str
    family: str
    seed: int


@dataclass(frozen=True, slots=True)
class TournamentPlan:
    """A whole tournament; the baseline always takes part.

    Raises:
        ValueError: a policy, family or size does not exist, a list is empty or names something twice, a load
            is not positive, or `requests` is below 1; the message lists what exists.
    """

    policies: tuple[str, ...]
    families: tuple[str, ...]
    sizes: tuple[str, ...]
    loads: tuple[float, ...]
    seeds: tuple[int, ...]
    requests: int | None = None

    @classmethod
    def make(
        cls,
        policies: Sequence[str],
        *,
        families: Sequence[str] | None = None,
        sizes: Sequence[str] | None = None,
        loads: Sequence[float] = LOADS,
        seeds: Sequence[int] | None = None,
        split: Split = "tuning",
        requests: int | None = None,
    ) -> TournamentPlan:
        """Fill in what is None: every family, every size, the first four seeds of the split."""
        return cls(
            (BASELINE, *(spec for spec in policies if spec != BASELINE)),
            tuple(FAMILIES) if families is None else tuple(families),
            tuple(SIZES) if sizes is None else tuple(sizes),
            tuple(loads),
            split_seeds(split)[:4] if seeds is None else tuple(seeds),
            requests,
        )

    def __post_init__(self) -> None:
        for spec in self.policies:
            resolve(spec)
        for kind, chosen, known in (
            ("family", self.families, FAMILIES.keys()),
            ("size", self.sizes, SIZES.keys()),
        ):
            for name in chosen:
                if name not in known:
                    raise ValueError(f"{kind} {name!r} does not exist. Available: {', '.join(known)}")
        for what, values in (
            ("policy", self.policies),
            ("family", self.families),
            ("size", self.sizes),
            ("load", self.loads),
            ("seed", self.seeds),
        ):
            if not values:
                raise ValueError(f"expected at least one {what}")
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is named twice: {', '.join(map(str, values))}")
        for load in self.loads:
            if not (math.isfinite(load) and load > 0.0):
                raise ValueError(f"a load must be a positive number, got {load!r}")
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests must be at least 1, got {self.requests}")

    def groups(self) -> list[CellGroup]:
        """Return all groups, the longest first, so that no process starts a long one at the end."""
        names = sorted(self.sizes, key=self.requests_at, reverse=True)
        return [
            CellGroup(size, family, seed) for size in names for family in self.families for seed in self.seeds
        ]

    def requests_at(self, size: str) -> int:
        """Return the number of requests of one run at a memory size."""
        return SIZES[size].requests if self.requests is None else self.requests
