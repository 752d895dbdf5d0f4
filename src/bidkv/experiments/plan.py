"""What an experiment consists of: cells, gathered in groups, in an order in which drift cancels."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

PLAN_VERSION = 1
_KINDS: dict[str, type] = {"engine": str, "runs": int, "requests": int, "seed": int}
_MOST = {"runs": 10_000, "requests": 10_000_000}
"""Upper bounds of a plan's numbers. All cells are listed at once, and a slip must not fill the memory."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One workload at one load.

    Attributes:
        workload: its name, or its file.
        rate_rps: mean arrivals per second: of requests, or of sessions where the workload has sessions; 0 for
            sessions in closed loop.
        concurrent: sessions alive at once, each end starting the next; 0 for arrivals at a rate.
    """

    workload: str
    rate_rps: float
    concurrent: int = 0

    def __str__(self) -> str:
        if self.concurrent:
            return f"{self.workload} with {self.concurrent} sessions"
        return f"{self.workload} at {self.rate_rps:g}/s"

    @property
    def load_id(self) -> str:
        """Names the load in files."""
        load = f"{self.concurrent}s" if self.concurrent else f"{self.rate_rps:g}"
        return f"{_safe_file_name(self.workload)}@{load}"


@dataclass(frozen=True, slots=True)
class RunGroup:
    """The runs that belong together: every strategy, one after another, over the identical requests."""

    load: LoadPoint
    repetition: int

    @property
    def group_id(self) -> str:
        """Names the group's files."""
        return f"{self.load.load_id}-run{self.repetition + 1}"


@dataclass(frozen=True, slots=True)
class ExperimentCell:
    """One run: a group, a strategy, and the position of the run in its group."""

    group: RunGroup
    strategy: str
    position: int

    @property
    def cell_id(self) -> str:
        """Names the cell's file."""
        return f"{self.group.group_id}-{_safe_file_name(self.strategy)}"

    def __str__(self) -> str:
        return f"{self.group.load}, run {self.group.repetition + 1}, {self.strategy}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One share of an experiment that several machines run: number `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `K/N`.

        Raises:
            ValueError: anything but two numbers with 1 <= K <= N.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"expected K/N with 1 <= K <= N, such as 1/3, got {text[:40]!r}")
        return cls(int(number), int(of))


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """An experiment, complete: equal plans always mean the same cells in the same order.

    Attributes:
        engine: "sim", "vllm" or "sglang".
        strategies: their labels, all different (:func:`make_labels`).
        loads: workloads and rates.
        runs: repetitions; each has requests of its own, the same for every strategy.
        requests: of each run; sessions where the workload has sessions.
        seed: of the first repetition's requests; the next repetition has the next seed.
        options: the engine's options, as JSON holds them.
    """

    engine: str
    strategies: tuple[str, ...]
    loads: tuple[LoadPoint, ...]
    runs: int
    requests: int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A manifest is read back from JSON, which may have been edited by hand.
        for name, kind in _KINDS.items():
            if type(getattr(self, name)) is not kind:
                raise ValueError(f"{name} must be of type {kind.__name__}, got {getattr(self, name)!r:.80}")
        if not all(type(label) is str for label in self.strategies):
            raise ValueError(f"strategies must be texts, got {self.strategies!r:.80}")
        for name in ("runs", "requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
            if getattr(self, name) > _MOST[name]:
                raise ValueError(f"{name} must be at most {_MOST[name]:,}, got {getattr(self, name)}")
        for name in ("strategies", "loads"):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name} must be different from each other and at least one, got {given}")

    def groups(self) -> Iterator[list[ExperimentCell]]:
        """Yield the groups in order: all loads once, then all of them again with the next repetition."""
        for repetition in range(self.runs):
            order = alternate_order(self.strategies, repetition)
            for load in self.loads:
                group = RunGroup(load, repetition)
                yield [ExperimentCell(group, strategy, position) for position, strategy in enumerate(order)]

    def cells(self) -> list[ExperimentCell]:
        """Return all cells in order."""
        return [cell for group in self.groups() for cell in group]

    def share(self, shard: Shard) -> list[list[ExperimentCell]]:
        """Return the groups of one share, in order: every `shard.of`-th of them."""
        return [cells for index, cells in enumerate(self.groups()) if index % shard.of == shard.number - 1]

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON holds it."""
        return {"version": PLAN_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ExperimentPlan:
        """Return the plan that :meth:`as_dict` described.

        Raises:
            ValueError: another version, or not a plan.
        """
        if content.get("version") != PLAN_VERSION:
            raise ValueError(f"expected a plan of version {PLAN_VERSION}, found {content.get('version')!r}")
        given = {name: value for name, value in content.items() if name != "version"}
        try:
            loads = tuple(
                LoadPoint(str(load["workload"]), float(load["rate_rps"]), int(load.get("concurrent", 0)))
                for load in given.pop("loads")
            )
            return cls(loads=loads, strategies=tuple(given.pop("strategies")), **given)
        except (KeyError, TypeError, OverflowError) as error:  # Overflow: a number of sessions without end
            raise ValueError(f"expected a plan, found {str(content)[:100]} ({error})") from error


def alternate_order(strategies: Sequence[str], repetition: int) -> tuple[str, ...]:
    """Return the order of strategies in a repetition: every second is reversed, every two shift by one.

    Whatever drifts while a group runs (heat, a filling disk) then hits each strategy early as often as late.

    >>> [" ".join(alternate_order(("a", "b"), n)) for n in range(4)]
    ['a b', 'b a', 'b a', 'a b']
    """
    shift = (repetition // 2) % len(strategies)
    order = (*strategies[shift:], *strategies[:shift])
    return order[::-1] if repetition % 2 else order


def make_labels(strategies: Sequence[str]) -> tuple[str, ...]:
    """Return a label for each strategy; a second use of a name becomes `name#2`, an A/A comparison.

    >>> make_labels(["bidkv", "lcf", "bidkv"])
    ('bidkv', 'lcf', 'bidkv#2')
    """
    labels = []
    for index, name in enumerate(strategies):
        before = strategies[:index].count(name)
        labels.append(f"{name}#{before + 1}" if before else name)
    return tuple(labels)


def policy_for_label(label: str) -> str:
    """Return the policy text behind a label.

    >>> policy_for_label("fair:cap=8#2")
    'fair:cap=8'
    """
    return re.sub(r"#\d+$", "", label)


def _safe_file_name(text: str) -> str:
    """Return a name that any file system accepts; one that had to change carries a checksum."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[-60:].lstrip(".")
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
