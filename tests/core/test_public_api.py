"""Every public name, importable from the package and from its room, with the standard library alone."""

import doctest
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import bidkv

SRC = Path(bidkv.__file__).parents[1]
CONTRACT = {
    "__version__",
    "FEATURE_GATE_ID",
    "BidAcceptance",
    "BidCapacityError",
    "BidExecutionError",
    "BidExpiredError",
    "BidKVConfig",
    "BidPool",
    "CompressionBid",
    "CompressionBidError",
    "CompressionBidProvider",
    "compute_utility",
    "make_bid_id",
    "BidPoolManager",
    "GreedyBidSolver",
    "PressureConfig",
    "PressureDetector",
    "SolverConfig",
    "PositionalScoring",
    "ScoringStrategy",
    "build_bids",
    "BaselineContext",
    "BaselineRegistry",
    "BaselineStrategy",
    "BidKVStrategy",
    "CompressionAction",
    "LargestFirstStrategy",
    "PreemptEvictStrategy",
    "PreemptEvictSJFStrategy",
    "RequestState",
    "StaticRandomStrategy",
    "BaseAdapterMetrics",
    "FrameworkAdapter",
    "ExperimentMetrics",
    "QueueingController",
    "QueueingConfig",
    "StabilityState",
}
EVERYDAY = {
    "EngineConfig",
    "Policy",
    "generate",
    "load_profile",
    "read_trace",
    "register",
    "resolve",
    "simulate",
    "simulate_fleet",
}
"""What people use most, beside the names of the contract."""
API_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
ROOMS = {
    "bidkv.config": ["BidKVConfig"],
    "bidkv.protocol": [
        *("FEATURE_GATE_ID", "BidAcceptance", "BidCapacityError", "BidExecutionError", "BidExpiredError"),
        *("BidPool", "CompressionBid", "CompressionBidError", "CompressionBidProvider", "compute_utility"),
        *("make_bid_id", "Policy", "EngineView", "RequestView", "WorkloadRequest"),
    ],
    "bidkv.scoring": ["PositionalScoring", "ScoringStrategy", "build_bids"],
    "bidkv.pool": ["BidPoolManager"],
    "bidkv.pressure": ["PressureConfig", "PressureDetector"],
    "bidkv.solver": ["GreedyBidSolver", "SolverConfig"],
    "bidkv.baselines": [
        *("BaselineContext", "BaselineRegistry", "BaselineStrategy", "BidKVStrategy", "CompressionAction"),
        *("LargestFirstStrategy", "PreemptEvictStrategy", "PreemptEvictSJFStrategy", "RequestState"),
        "StaticRandomStrategy",
    ],
    "bidkv.adapters": ["BaseAdapterMetrics", "FrameworkAdapter"],
    "bidkv.experiments": ["ExperimentMetrics"],
    "bidkv.stability": ["QueueingController", "QueueingConfig", "StabilityState"],
    "bidkv.policy": ["register", "resolve"],
    "bidkv.profiles": ["load_profile"],
    "bidkv.simulator": ["EngineConfig", "simulate"],
    "bidkv.simulator.fleet": ["simulate_fleet"],
    "bidkv.workloads": ["generate"],
    "bidkv.workloads.traces": ["read_trace"],
}
ISOLATED = """
import json, sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
{body}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_loaded_by(body: str) -> list[str]:
    """Run `body` in a Python without site packages and return the modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", ISOLATED.format(body=body), str(SRC)],
        check=True,
        capture_output=True,
        text=True,
    )
    loaded: list[str] = json.loads(done.stdout)
    return loaded


def test_the_package_exports_the_contract_and_the_everyday_names() -> None:
    assert set(bidkv.__all__) == CONTRACT | EVERYDAY
    assert len(bidkv.__all__) == len(CONTRACT) + len(EVERYDAY)
    assert set(dir(bidkv)) >= CONTRACT | EVERYDAY


def test_every_name_has_one_home_room() -> None:
    assert set(bidkv._HOME_ROOM) == set(bidkv.__all__) - {"__version__"}
    for name, room in bidkv._HOME_ROOM.items():
        assert getattr(bidkv, name) is getattr(importlib.import_module(room), name)


def test_the_api_page_shows_every_public_name_under_its_room() -> None:
    assert api_section(bidkv._HOME_ROOM) in API_PAGE.read_text(encoding="utf-8")


def api_section(home_room: Mapping[str, str]) -> str:
    """Return the part of the API page that stands for the names of `import bidkv`."""
    rooms = sorted(set(home_room.values()))
    lines = []
    for room in rooms:
        names = sorted(name for name in home_room if home_room[name] == room)
        lines.append(f"::: {room}\n    options:\n      members: [{', '.join(names)}]\n")
    return "\n".join(lines)


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in ROOMS for name in ROOMS[room]])
def test_rooms_export_their_names(room: str, name: str) -> None:
    module = importlib.import_module(room)
    value = getattr(module, name)
    assert name in getattr(module, "__all__", vars(module))
    if name in bidkv.__all__:
        assert getattr(bidkv, name) is value


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from bidkv import *", names)
    assert set(names) >= CONTRACT | EVERYDAY


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'bidkv' has no attribute 'nonsense'"):
        _ = bidkv.nonsense
    with pytest.raises(ImportError):
        exec("from bidkv import nonsense")


def test_every_public_name_needs_the_standard_library_alone() -> None:
    loaded = modules_loaded_by("from bidkv import *")
    outside = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"bidkv"}
    assert outside == set()


def test_the_contracts_names_load_no_heavy_module() -> None:
    loaded = modules_loaded_by(f"from bidkv import {', '.join(sorted(CONTRACT))}")
    heavy = {"asyncio", "multiprocessing", "concurrent", "http", "urllib", "socket", "subprocess", "logging"}
    assert {name.partition(".")[0] for name in loaded} & heavy == set()


def test_importing_the_package_alone_loads_no_room() -> None:
    loaded = modules_loaded_by("import bidkv")
    assert [name for name in loaded if name.startswith("bidkv")] == ["bidkv", "bidkv._version"]


@pytest.mark.parametrize("module", ["protocol.bid", "scoring.positional", "baselines.bidkv_strategy"])
def test_examples_in_docstrings(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"bidkv.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
