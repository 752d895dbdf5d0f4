"""Many policies on many workloads, loads and memory sizes, in the simulator, compared pair by pair.

from bidkv.tournament import evaluate
print(evaluate(["lcf", "fair:gain=5"], sizes=["T"], families=["mixed"], loads=[1.1], seeds=[1, 2]))
"""

from bidkv.tournament.evaluate import evaluate, play
from bidkv.tournament.paired import MeanInterval
from bidkv.tournament.plan import (
    BASELINE,
    LOADS,
    SIZES,
    MemorySize,
    TournamentCell,
    TournamentPlan,
    all_policies,
)
from bidkv.tournament.scores import Score
from bidkv.tournament.standings import LostCell, Standings

__all__ = [
    "BASELINE",
    "LOADS",
    "SIZES",
    "LostCell",
    "MeanInterval",
    "MemorySize",
    "Score",
    "Standings",
    "TournamentCell",
    "TournamentPlan",
    "all_policies",
    "evaluate",
    "play",
]
