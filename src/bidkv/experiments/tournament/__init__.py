"""Many policies on many workloads, loads and memory sizes, in the simulator, compared pair by pair.

from bidkv.experiments.tournament import evaluate, play
print(evaluate(["lcf", "fair:gain=5"], sizes=["T"], families=["mixed"], loads=[1.1], seeds=[1, 2]))
"""

from bidkv.experiments.tournament.evaluate import evaluate, play
from bidkv.experiments.tournament.plan import BASELINE, LOADS, SIZES, Cell, MemorySize, Plan, everybody
from bidkv.experiments.tournament.scores import Score
from bidkv.experiments.tournament.standings import Estimate, Loss, Standings

__all__ = [
    "BASELINE",
    "LOADS",
    "SIZES",
    "Cell",
    "Estimate",
    "Loss",
    "MemorySize",
    "Plan",
    "Score",
    "Standings",
    "evaluate",
    "everybody",
    "play",
]
