"""Runs an experiment on any engine: plan, folder, the loop, and the drivers behind one interface."""

from bidkv.experiments.runner.driver import Done, Driver, DriverError, EngineFacts, RunFailed, Task
from bidkv.experiments.runner.execute import Tally, run_experiment
from bidkv.experiments.runner.plan import Block, Cell, Load, Plan, labels_of, policy_of
from bidkv.experiments.runner.sim import SimDriver, SimEngine
from bidkv.experiments.runner.store import Store, StoredRun, StoreError

__all__ = [
    "Block",
    "Cell",
    "Done",
    "Driver",
    "DriverError",
    "EngineFacts",
    "Load",
    "Plan",
    "RunFailed",
    "SimDriver",
    "SimEngine",
    "Store",
    "StoreError",
    "StoredRun",
    "Tally",
    "Task",
    "labels_of",
    "policy_of",
    "run_experiment",
]
