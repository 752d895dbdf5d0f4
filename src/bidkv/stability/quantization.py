"""Advice on the width of KV values from the load, without flapping, and what a width does to memory."""

from __future__ import annotations

import math

# (rho below which this width is enough, bits): 16 below 0.70, 8 below 0.85, 4 below 0.95, else 2.
_LADDER: tuple[tuple[float, int], ...] = ((0.70, 16), (0.85, 8), (0.95, 4), (math.inf, 2))


class QuantizationAdvisor:
    """Bits per KV value for a utilization, with hysteresis.

    Fewer bits are advised as soon as a threshold is reached; more bits only once the load is
    `hysteresis` below it, so a load that trembles at a threshold does not flap.

    >>> advisor = QuantizationAdvisor()
    >>> [advisor.advise(rho) for rho in (0.69, 0.70, 0.69, 0.66)]
    [16, 8, 8, 16]
    """

    __slots__ = ("_hysteresis", "_rung")

    def __init__(self, hysteresis: float = 0.03) -> None:
        if not 0.0 <= hysteresis < 0.15:
            raise ValueError("hysteresis must be in [0.0, 0.15)")
        self._hysteresis = hysteresis
        self._rung = 0

    def advise(self, rho: float) -> int:
        """Return the bits for utilization `rho`; ValueError when it is negative or NaN."""
        if not rho >= 0.0:
            raise ValueError("rho must be >= 0.0")
        reached = _rung_at(rho)
        if reached < self._rung:
            reached = min(self._rung, _rung_at(rho + self._hysteresis))
        self._rung = reached
        return _LADDER[reached][1]


def _rung_at(rho: float) -> int:
    return next(rung for rung, (bound, _) in enumerate(_LADDER) if rho < bound or bound == math.inf)


def blocks_at_bits(num_blocks: int, bits_now: float, bits_then: float) -> int:
    """Blocks that the memory of `num_blocks` blocks holds after a change of the width of KV values.

    >>> blocks_at_bits(600, 16, 8)
    1200
    """
    if num_blocks < 0 or not bits_now > 0 or not bits_then > 0:
        raise ValueError("num_blocks must be >= 0, bits_now and bits_then > 0")
    return int(num_blocks * bits_now / bits_then)
