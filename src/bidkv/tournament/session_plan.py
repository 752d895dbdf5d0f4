"""The plan of a tournament of sessions: policies, machines, memory sizes, families, loads and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Literal, NamedTuple

from bidkv.policy import available, resolve
from bidkv.profiles import StepTimeProfile, load_profile
from bidkv.profiles.analytic import analytic_profile
from bidkv.simulator import EngineConfig
from bidkv.tournament.plan import BASELINE
from bidkv.workloads.families import Split, split_seeds
from bidkv.workloads.session_families import SESSION_FAMILIES

Mode = Literal["open", "closed"]

OPEN_LOADS = (0.5, 0.8, 1.0, 1.2, 1.5)
"""Session rates in open loop, as shares of the knee of vLLM's own order."""

CLOSED_LEVELS = (1.0, 2.0, 4.0)
"""Concurrent sessions in closed loop, as multiples of the number whose contexts the memory holds."""

SIZES: Mapping[str, float] = MappingProxyType({"quarter": 0.25, "half": 0.5, "full": 1.0})
"""Memory sizes, as shares of the KV blocks that fit on the machine beside the weights."""

OPEN_S = 1200.0
"""Seconds in which sessions start in open loop; every run then goes on until the last one ends."""

WARM_UP_S, CLOSED_S = 600.0, 1200.0
"""Seconds of a closed run before figures count, and while they do. A closed run starts with an empty engine
and new sessions only. Their contexts are short, so an order that serves all of them alike makes many turns
first and pays for it later; what lasts is the rate after that."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A model on a machine.

    Attributes:
        name: its name in tables.
        profile: a packaged profile; empty for an analytic one.
        model: of an analytic profile.
        gpu: of an analytic profile.
        tensor_parallel: GPUs of an analytic profile.
        num_gpu_blocks: KV blocks of an analytic profile; fixed, so that scores stay comparable when blocks
            are counted differently.
    """

    name: str
    profile: str = ""
    model: str = ""
    gpu: str = ""
    tensor_parallel: int = 1
    num_gpu_blocks: int = 0

    def load(self) -> StepTimeProfile:
        """Return its step times, with the KV blocks that fit beside the weights."""
        if self.profile:
            return load_profile(self.profile)
        profile = analytic_profile(self.model, self.gpu, tensor_parallel=self.tensor_parallel)
        return replace(profile, num_gpu_blocks=self.num_gpu_blocks)


MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        machine.name: machine
        for machine in (
            Machine("h100-8b", profile="h100-llama3.1-8b-async"),
            Machine(
                "4xh100-70b", model="llama-3.1-70b", gpu="h100-sxm", tensor_parallel=4, num_gpu_blocks=30_054
            ),
            Machine("h100-30b-a3b", model="qwen3-30b-a3b", gpu="h100-sxm", num_gpu_blocks=8649),
            Machine("l40s-8b", model="llama-3.1-8b", gpu="l40s", num_gpu_blocks=11_975),
        )
    }
)
"""A measured 8B model on an H100, and analytic profiles: 70B on four, a mixture of experts, a small GPU."""


@cache
def load_machine(name: str) -> StepTimeProfile:
    """Return the step times of a machine; one object per process."""
    return MACHINES[name].load()


def make_engine(machine: str, size: str) -> EngineConfig:
    """Return the engine of a machine and memory size, with prefix caching and asynchronous scheduling on."""
    blocks = load_machine(machine).num_gpu_blocks
    assert blocks is not None
    return EngineConfig(
        num_gpu_blocks=max(int(SIZES[size] * blocks), 2),
        max_num_seqs=256,
        max_num_batched_tokens=2048,
        enable_prefix_caching=True,
        async_scheduling=True,
    )


class SessionCell(NamedTuple):
    """Sessions of one family on one engine, which every policy runs.

    Attributes:
        machine: a name out of :data:`MACHINES`.
        size: a name out of :data:`SIZES`.
        family: a name out of the session families.
        mode: "open" (a session rate) or "closed" (a number of concurrent sessions).
        level: share of the knee (open), or multiple of the resident number (closed).
        seed: of the sessions and their arrivals.
    """

    machine: str
    size: str
    family: str
    mode: Mode
    level: float
    seed: int


class SessionGroup(NamedTuple):
    """The cells of all levels that share a knee and a store."""

    machine: str
    size: str
    family: str
    seed: int


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """A whole tournament of sessions; the baseline always takes part.

    Attributes:
        policies: specs, the baseline first.
        machines: names out of :data:`MACHINES`.
        sizes: names out of :data:`SIZES`.
        families: names of session families.
        loads: session rates in open loop, as shares of the knee of the baseline.
        levels: concurrent sessions in closed loop, as multiples of the resident number.
        seeds: of sessions and arrivals.
        open_s: seconds in which sessions start in open loop.
        closed_s: seconds of a closed run that are measured.
        warm_up_s: seconds of a closed run before them.
        finds_knees: whether the knee of every policy is found, which takes about 15 runs each.

    Raises:
        ValueError: a name does not exist, a list is empty or names something twice, or a number is not
            positive; the message lists what exists.
    """

    policies: tuple[str, ...]
    machines: tuple[str, ...]
    sizes: tuple[str, ...]
    families: tuple[str, ...]
    loads: tuple[float, ...]
    levels: tuple[float, ...]
    seeds: tuple[int, ...]
    open_s: float = OPEN_S
    closed_s: float = CLOSED_S
    warm_up_s: float = WARM_UP_S
    finds_knees: bool = False

    @classmethod
    def make(
        cls,
        policies: Sequence[str] | None = None,
        *,
        machines: Sequence[str] | None = None,
        sizes: Sequence[str] | None = None,
        families: Sequence[str] | None = None,
        loads: Sequence[float] = OPEN_LOADS,
        levels: Sequence[float] = CLOSED_LEVELS,
        seeds: Sequence[int] | None = None,
        split: Split = "tuning",
        open_s: float = OPEN_S,
        closed_s: float = CLOSED_S,
        warm_up_s: float = WARM_UP_S,
        finds_knees: bool = False,
    ) -> SessionPlan:
        """Fill in what is None: every policy, machine, size and family, the first four seeds of the split."""
        chosen = available() if policies is None else policies
        return cls(
            (BASELINE, *(spec for spec in chosen if spec != BASELINE)),
            tuple(MACHINES) if machines is None else tuple(machines),
            tuple(SIZES) if sizes is None else tuple(sizes),
            tuple(SESSION_FAMILIES) if families is None else tuple(families),
            tuple(loads),
            tuple(levels),
            split_seeds(split)[:4] if seeds is None else tuple(seeds),
            open_s,
            closed_s,
            warm_up_s,
            finds_knees,
        )

    def __post_init__(self) -> None:
        for spec in self.policies:
            resolve(spec)
        for kind, chosen, known in (
            ("machine", self.machines, MACHINES.keys()),
            ("size", self.sizes, SIZES.keys()),
            ("family", self.families, SESSION_FAMILIES.keys()),
        ):
            for name in chosen:
                if name not in known:
                    raise ValueError(f"{kind} {name!r} does not exist. Available: {', '.join(known)}")
        for what, values in (
            ("policy", self.policies),
            ("machine", self.machines),
            ("size", self.sizes),
            ("family", self.families),
            ("load", self.loads),
            ("level", self.levels),
            ("seed", self.seeds),
        ):
            if not values and what not in ("load", "level"):
                raise ValueError(f"expected at least one {what}")
            if len(set(values)) < len(values):
                raise ValueError(f"a {what} is named twice: {', '.join(map(str, values))}")
        if not self.loads and not self.levels:
            raise ValueError("expected at least one load or level")
        for value in (*self.loads, *self.levels, self.open_s, self.closed_s):
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"loads, levels and seconds must be positive, got {value!r}")
        if not 0.0 <= self.warm_up_s < math.inf:
            raise ValueError(f"the warm-up must last at least 0 seconds, got {self.warm_up_s!r}")

    def groups(self) -> list[SessionGroup]:
        """Return all groups, those with the largest memory first, since their runs are the longest."""
        sizes = sorted(self.sizes, key=lambda size: -SIZES[size])
        return [
            SessionGroup(machine, size, family, seed)
            for size in sizes
            for machine in self.machines
            for family in self.families
            for seed in self.seeds
        ]

    def cells(self, group: SessionGroup) -> list[SessionCell]:
        """Return the cells of a group, open ones first."""
        place = (group.machine, group.size, group.family)
        opened = [SessionCell(*place, "open", load, group.seed) for load in self.loads]
        return opened + [SessionCell(*place, "closed", level, group.seed) for level in self.levels]
