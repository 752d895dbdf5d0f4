"""Greedy selection of bids within a quality budget."""

from bidkv.solver.greedy import GreedyBidSolver, PressureSource, SolverConfig

__all__ = ["GreedyBidSolver", "PressureSource", "SolverConfig"]
