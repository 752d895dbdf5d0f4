"""Figures, objectives, statistics and the baseline of a comparison."""
