"""The plan of a tournament: policies, families, loads, memory sizes and seeds, checked before any run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from bidkv.baselines import ENGINE_ORDER
from bidkv.policy import available, resolve
from bidkv.profiles import DEFAULT_PROFILE, load_profile
from bidkv.simulator import EngineConfig
from bidkv.tournament.files import TraceFile
from bidkv.workloads.families import FAMILIES, FAMILY_GROUPS, Split, split_seeds
from bidkv.workloads.session_families import SESSION_FAMILIES

BASELINE = ENGINE_ORDER
"""vLLM's own order: saturation is measured under it, and every figure is relative to it."""

RECOMMENDED = ("fair", "fast", "on-time")
"""This project's own: pictures name them, and docs/results/single-requests.md lists every cell they lose."""

LOADS = (0.8, 0.95, 1.1, 1.3)
"""Arrival rates, as shares of the throughput at saturation; `math.inf` has all queued at the start."""

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

    def make_engine(self, options: Mapping[str, Any]) -> EngineConfig:
        """Return the engine of this size; without options of another mind prefix caching is off.

        Raises:
            ValueError: an option with which no engine could run.
        """
        sizes = {
            "num_gpu_blocks": self.num_gpu_blocks,
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        }
        return EngineConfig(**(sizes | dict(options)))


def _server_blocks() -> int:
    """Return the blocks that fit beside the weights on the default profile's GPU."""
    return load_profile(DEFAULT_PROFILE).num_gpu_blocks or 0


SIZES: Mapping[str, MemorySize] = MappingProxyType(
    {
        size.name: size
        for size in (
            MemorySize("T", 600, 32, 1000),
            MemorySize("1500", 1500, 64, 1500),
            MemorySize("4096", 4096, 128, 2500),
            MemorySize("M", 8192, 256, 4000),
            MemorySize("server", _server_blocks(), 256, 4000),
        )
    }
)

DEFAULT_SIZES = ("M", "server")
"""Sizes of real servers: vLLM's own limit of sequences, on a smaller GPU and on the default profile's."""


def memory_size(name: str) -> MemorySize:
    """Return a size by its name, or by BLOCKS/SEQUENCES.

    Raises:
        ValueError: neither.
    """
    if name in SIZES:
        return SIZES[name]
    blocks, slash, sequences = name.partition("/")
    if not (slash and blocks.isdecimal() and sequences.isdecimal() and len(name) < 20):
        raise ValueError(
            f"size {name!r} does not exist. Available: {', '.join(SIZES)}, or BLOCKS/SEQUENCES such as "
            "27000/256"
        )
    running = int(sequences)
    return MemorySize(name, int(blocks), running, min(max(16 * running, 1000), 4000))


def all_policies() -> list[str]:
    """Return every registered policy by name, and the variants of published ones."""
    return [*available(), *VARIANTS]


_KNOWN_FAMILIES = ", ".join((*FAMILY_GROUPS, *FAMILIES))


def _expand_groups(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(family for name in names for family in FAMILY_GROUPS.get(name, (name,)))


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

    Attributes:
        policies: by name, the baseline first.
        families: names of generated families and of files.
        sizes: of memory.
        loads: shares of the throughput at saturation.
        seeds: of the workloads.
        requests: of a run; None leaves their number to the size.
        engine: options of the simulated engine at every size.
        files: trace files that take part under their names.

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
    engine: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[TraceFile, ...] = ()

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
        engine: Mapping[str, Any] | None = None,
        files: Sequence[TraceFile] = (),
    ) -> TournamentPlan:
        """Fill in what is None: every family, the sizes of real servers, the first four seeds of the split.

        Files take part beside the families that are named; where none is named, they are all there is.

        A name of a group of families stands for all of them. An infinite load has every request queued at the
        start.

        `engine` holds options of the simulated engine at every size, by their names in Python.
        """
        if families is None:
            families = () if files else tuple(FAMILIES)
        return cls(
            (BASELINE, *(spec for spec in policies if spec != BASELINE)),
            (*_expand_groups(families), *(file.name for file in files)),
            DEFAULT_SIZES if sizes is None else tuple(sizes),
            tuple(loads),
            split_seeds(split)[:4] if seeds is None else tuple(seeds),
            requests,
            engine or {},
            tuple(files),
        )

    def __post_init__(self) -> None:
        for spec in self.policies:
            resolve(spec)
        for name in self.families:
            if name not in FAMILIES and self.file(name) is None:
                if name in SESSION_FAMILIES:
                    raise ValueError(f"family {name!r} holds sessions: add --sessions to compare on it")
                raise ValueError(f"family {name!r} does not exist. Available: {_KNOWN_FAMILIES}")
        for name in self.sizes:
            memory_size(name).make_engine(self.engine)
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
            if not load > 0.0:
                raise ValueError(f"a load must be a positive number, got {load!r}")
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests must be at least 1, got {self.requests}")

    def file(self, family: str) -> TraceFile | None:
        """Return the file that a family's name stands for; None for a generated family."""
        return next((file for file in self.files if file.name == family), None)

    def groups(self) -> list[CellGroup]:
        """Return all groups, the longest first, so that no process starts a long one at the end."""
        names = sorted(self.sizes, key=self.requests_at, reverse=True)
        return [
            CellGroup(size, family, seed) for size in names for family in self.families for seed in self.seeds
        ]

    def requests_at(self, size: str) -> int:
        """Return the number of requests of one run at a memory size."""
        return memory_size(size).requests if self.requests is None else self.requests
