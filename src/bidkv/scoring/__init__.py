"""From the importance of tokens to bids."""

from bidkv.scoring.bid_builder import build_bids
from bidkv.scoring.positional import PositionalScoring
from bidkv.scoring.base import ScoringStrategy

__all__ = ["PositionalScoring", "ScoringStrategy", "build_bids"]
