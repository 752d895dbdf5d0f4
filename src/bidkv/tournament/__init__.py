"""Many policies on many workloads, loads and memory sizes, in the simulator, compared pair by pair.

from bidkv.tournament import play
from bidkv.tournament import evaluate
print(evaluate(["lcf", "fair:gain=5"], sizes=["T"], families=["mixed"], loads=[1.1], seeds=[1, 2]))
"""

from bidkv.tournament.evaluate import evaluate, play
from bidkv.tournament.plan import BASELINE, LOADS, SIZES, Cell, MemorySize, Plan, everybody
from bidkv.tournament.scores import Score
from bidkv.tournament.standings import Estimate, Loss, Standings

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
