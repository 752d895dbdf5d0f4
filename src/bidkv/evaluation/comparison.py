"""Two results of `bidkv simulate --json` beside each other, or two sets of them with different seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from bidkv.evaluation.figures import ALL_FIGURES, Figure, Summary

_WORKLOAD = (
    *("trace", "trace_format", "trace_options", "rate_rps", "limit", "hours", "sessions", "session_rate"),
    *("concurrent_sessions", "session_stagger_s", "sessions_at_once", "duration_s"),
)
"""What must be equal on both sides for a comparison to mean anything."""

_NOT_COMPARED = frozenset((*_WORKLOAD, "seed", "strategies", "trace_report", "arrival_rate_rps"))

_MOST_BYTES = 256 * 1024 * 1024


class ComparisonError(ValueError):
    """Files that are not results, or not of the same workload; the message names file and field."""


@dataclass(frozen=True, slots=True)
class SimulationFile:
    """A result of `bidkv simulate --json`.

    Attributes:
        path: the file.
        config: what was run.
        runs: a summary for each strategy, by its name.
    """

    path: Path
    config: Mapping[str, Any]
    runs: Mapping[str, Summary]


@dataclass(frozen=True, slots=True)
class FigureChange:
    """One figure of one strategy on both sides; means over seeds.

    Attributes:
        figure: which.
        a: its value on the first side.
        b: on the second.
        ratio: b / a, a geometric mean over seeds; None where a value is 0.
        low: lower end of the ratio's 95 % interval over seeds; None for one seed.
        high: upper end.
    """

    figure: Figure
    a: float
    b: float
    ratio: float | None
    low: float | None = None
    high: float | None = None

    @property
    def better(self) -> Literal["a", "b", ""]:
        """The better side; "" where they are alike, no way is better, or the interval holds both."""
        if self.figure.better is None or self.figure.are_alike(self.a, self.b):
            return ""
        if self.low is not None and self.high is not None and self.low <= 1.0 <= self.high:
            return ""
        return "b" if (self.b < self.a) == (self.figure.better == "lower") else "a"

    @property
    def loss(self) -> float:
        """How much worse the second side is beyond doubt, as a share of the first; 0 where it is not."""
        if self.better != "a":
            return 0.0
        if self.ratio is None:
            return math.inf
        if self.figure.better == "lower":
            return (self.ratio if self.low is None else self.low) - 1.0
        return 1.0 - (self.ratio if self.high is None else self.high)

    def as_dict(self) -> dict[str, Any]:
        """Return the change as JSON data."""
        return {
            "figure": self.figure.path,
            "a": self.a,
            "b": self.b,
            "ratio": self.ratio,
            "interval": None if self.low is None else [self.low, self.high],
            "better": self.better or None,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides compared.

    Attributes:
        seeds: of the pairs, in order.
        differences: what was run differently: (first side, second side) by name.
        changes: the figures of each pair of strategies, by "name", or "name -> other" where each side has
            one alone.
        alone: strategies that only one side has.
    """

    seeds: tuple[int, ...]
    differences: Mapping[str, tuple[Any, Any]]
    changes: Mapping[str, Sequence[FigureChange]]
    alone: Sequence[str]

    def losses(self, share: float) -> list[tuple[str, FigureChange]]:
        """Return the figures in which the second side is worse by more than a share."""
        return [
            (name, change)
            for name, changes in self.changes.items()
            for change in changes
            if change.loss > share
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data."""
        return {
            "seeds": list(self.seeds),
            "differences": {name: {"a": a, "b": b} for name, (a, b) in self.differences.items()},
            "strategies": [
                {"strategy": name, "figures": [change.as_dict() for change in changes]}
                for name, changes in self.changes.items()
            ],
            "alone": list(self.alone),
        }


def read_side(path: Path) -> list[SimulationFile]:
    """Return the results of one side: a file, or the `.json` files of a folder.

    Raises:
        ComparisonError: there is no result, or a file that is none.
    """
    if not path.is_dir():
        return [read_simulation(path)]
    files = sorted(path.glob("*.json"))
    if not files:
        raise ComparisonError(f"{path}: expected .json files of `bidkv simulate --json`, found none")
    return [read_simulation(file) for file in files]


def read_simulation(path: Path) -> SimulationFile:
    """Read a result of `bidkv simulate --json`.

    Raises:
        ComparisonError: the file cannot be read, or is no such result.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ComparisonError(f"{path}: expected at most {_MOST_BYTES:,} bytes")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ComparisonError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ComparisonError):
            raise
        raise ComparisonError(f"{path}: expected JSON ({str(error)[:100]})") from error
    if not isinstance(document, dict):
        _refuse(path, "", "an object with config and runs", document)
    config, runs = document.get("config"), document.get("runs")
    if not isinstance(config, dict) or "trace" not in config:
        _refuse(path, "config", "what a run of `bidkv simulate --json` was given", config)
    try:
        json.dumps(config, allow_nan=False)
    except (ValueError, RecursionError):
        _refuse(path, "config", "finite numbers", config)
    if not isinstance(runs, list) or not runs:
        _refuse(path, "runs", "a list of at least one strategy's figures", runs)
    found: dict[str, Summary] = {}
    for place, run in enumerate(runs):
        name = run.get("strategy") if isinstance(run, dict) else None
        if not isinstance(name, str) or name in found:
            _refuse(path, f"runs[{place}].strategy", "a name that no other run has", name)
        for figure in ALL_FIGURES:
            _check_figure(path, f"runs[{place}]", figure, run)
        found[name] = run
    return SimulationFile(path, config, found)


def _check_figure(path: Path, place: str, figure: Figure, run: Mapping[str, Any]) -> None:
    value: Any = run
    for name in figure.path.split("."):
        if value is None:
            return
        if not isinstance(value, dict):
            _refuse(path, f"{place}.{figure.path}", "an object", value)
        value = value.get(name)
    is_number = type(value) in (int, float) and -1e300 < value < 1e300
    if value is not None and not is_number:
        _refuse(path, f"{place}.{figure.path}", "a finite number", value)


def _refuse(path: Path, field: str, expected: str, found: object) -> NoReturn:
    place = f"{path}, field {field!r}" if field else str(path)
    raise ComparisonError(f"{place}: expected {expected}, found {str(found)[:60]!r}")


def compare_sides(
    a: Sequence[SimulationFile],
    b: Sequence[SimulationFile],
    figures: Sequence[Figure] = ALL_FIGURES,
    *,
    any_workload: bool = False,
) -> Comparison:
    """Compare two sides, seed by seed.

    Args:
        a: results of the first side, one for each seed.
        b: of the second side, with the same seeds.
        figures: which figures.
        any_workload: compare what ran on different workloads too.

    Raises:
        ComparisonError: the sides have other seeds, workloads or strategies.
    """
    firsts, seconds = _by_seed(a), _by_seed(b)
    if firsts.keys() != seconds.keys() and len(firsts) == len(seconds) == 1 and any_workload:
        seconds = {seed: next(iter(seconds.values())) for seed in firsts}
    if firsts.keys() != seconds.keys():
        raise ComparisonError(
            f"{b[0].path}: expected the seeds {sorted(firsts)} as in {a[0].path}, found {sorted(seconds)}"
        )
    pairs = [(firsts[seed], seconds[seed]) for seed in sorted(firsts)]
    everything = [*firsts.values(), *seconds.values()]
    for one in [] if any_workload else everything:
        for name in _WORKLOAD:
            if one.config.get(name) != a[0].config.get(name):
                raise ComparisonError(
                    f"{one.path}, field 'config.{name}': expected the workload of {a[0].path} "
                    f"({a[0].config.get(name)!r:.60}), found {one.config.get(name)!r:.60}; --any-workload "
                    "compares them all the same"
                )
    names = _pair_strategies(pairs)
    changes = {
        label: [
            change
            for figure in figures
            if (change := _change(figure, [(x.runs[n], y.runs[m]) for x, y in pairs])) is not None
        ]
        for label, (n, m) in names.items()
    }
    used = {name for pair in names.values() for name in pair}
    alone = sorted({name for one in everything for name in one.runs} - used)
    return Comparison(tuple(sorted(firsts)), _differences(*pairs[0]), changes, alone)


def _by_seed(files: Sequence[SimulationFile]) -> dict[int, SimulationFile]:
    found: dict[int, SimulationFile] = {}
    for file in files:
        seed = file.config.get("seed", 0)
        if type(seed) is not int:
            _refuse(file.path, "config.seed", "a whole number", seed)
        if seed in found:
            raise ComparisonError(f"{file.path}: expected another seed than {found[seed].path} has ({seed})")
        found[seed] = file
    return found


def _pair_strategies(
    pairs: Sequence[tuple[SimulationFile, SimulationFile]],
) -> dict[str, tuple[str, str]]:
    """Return the strategies that every file has; or the only one of each side."""
    first, second = pairs[0]
    common = [name for name in first.runs if all(name in x.runs and name in y.runs for x, y in pairs)]
    if common:
        return {name: (name, name) for name in common}
    if all(len(x.runs) == len(y.runs) == 1 for x, y in pairs):
        n, m = next(iter(first.runs)), next(iter(second.runs))
        if all(n in x.runs and m in y.runs for x, y in pairs):
            return {f"{n} -> {m}": (n, m)}
    raise ComparisonError(
        f"{second.path}: expected a strategy of {first.path} ({', '.join(first.runs):.200}), found "
        f"{', '.join(second.runs):.200}"
    )


def _change(figure: Figure, pairs: Sequence[tuple[Summary, Summary]]) -> FigureChange | None:
    values = [(figure.read(x), figure.read(y)) for x, y in pairs]
    known = [(x, y) for x, y in values if x is not None and y is not None]
    if len(known) < len(pairs):
        return None
    a, b = (math.fsum(side) / len(known) for side in zip(*known, strict=True))
    if any(x <= 0.0 or y <= 0.0 for x, y in known):
        return FigureChange(figure, a, b, None)
    logs = [math.log(y) - math.log(x) for x, y in known]
    ratio = _exp(math.fsum(logs) / len(logs))
    if len(logs) < 2:
        return FigureChange(figure, a, b, ratio)
    from bidkv.evaluation.intervals import mean_interval

    low, high = mean_interval(logs)
    return FigureChange(figure, a, b, ratio, _exp(low), _exp(high))


def _exp(log: float) -> float:
    """Return e to that power, or the nearest number above 0 that a file can hold."""
    return math.exp(min(max(log, -700.0), 700.0))


def _differences(a: SimulationFile, b: SimulationFile) -> dict[str, tuple[Any, Any]]:
    names = [name for name in (*a.config, *b.config) if name not in _NOT_COMPARED]
    found = {name: (a.config.get(name), b.config.get(name)) for name in names}
    return {name: (x, y) for name, (x, y) in found.items() if x != y}
