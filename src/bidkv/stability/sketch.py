"""The joint law of prompt and output length, learned from finished requests in bounded memory."""

from __future__ import annotations

import math

from bidkv.stability.estimators import DEFAULT_MIN_SAMPLES
from bidkv.stability.lengths import EmpiricalLaw

_MOST_TOKENS = 2**24
# Weights grow as e^(t/window) instead of every cell shrinking; beyond this they are all scaled back.
_LARGEST_WEIGHT = 1e100


class LengthSketch:
    """Finished requests' lengths on a logarithmic grid, old ones forgotten exponentially.

    Each cell keeps its weight and its mean lengths, so means are exact and only the spread inside a cell
    (a quarter of an octave, at most 9 % from its middle) is lost. O(1) an update; at most (4*24)^2 cells
    exist whatever comes, a few hundred in practice.

    Args:
        window_s: time constant of forgetting, seconds; infinite keeps everything.
        cells_per_octave: resolution of the grid.
        min_samples: effective samples from which :attr:`enough` is true.

    >>> sketch = LengthSketch(window_s=math.inf)
    >>> for prompt, output in [(100, 10), (100, 30), (4000, 50)]:
    ...     sketch.update(prompt, output, at_s=0.0)
    >>> sketch.get().pairs
    ((100, 10), (100, 30), (4000, 50))
    """

    __slots__ = (
        "_cells",
        "_cells_per_octave",
        "_origin_s",
        "_squares",
        "_total",
        "_window_s",
        "count",
        "min_samples",
    )

    def __init__(
        self, window_s: float = 3600.0, cells_per_octave: int = 4, min_samples: int = DEFAULT_MIN_SAMPLES
    ) -> None:
        if not window_s > 0.0 or cells_per_octave < 1:
            raise ValueError("window_s must be > 0 and cells_per_octave >= 1")
        self._window_s = window_s
        self._cells_per_octave = cells_per_octave
        self._cells: dict[tuple[int, int], list[float]] = {}
        self._origin_s: float | None = None
        self._total = self._squares = 0.0
        self.count = 0
        self.min_samples = min_samples

    def update(self, prompt_tokens: int, output_tokens: int, at_s: float) -> None:
        """Take in a finished request; late ones count with the weight of their age.

        Raises:
            ValueError: a length outside [1, 2^24] or a time that is not finite.
        """
        if not (1 <= prompt_tokens <= _MOST_TOKENS and 1 <= output_tokens <= _MOST_TOKENS):
            raise ValueError("prompt_tokens and output_tokens must be in [1, 2^24]")
        if not -math.inf < at_s < math.inf:
            raise ValueError("at_s must be finite")
        if self._origin_s is None:
            self._origin_s = at_s
        exponent = (at_s - self._origin_s) / self._window_s
        if exponent > math.log(_LARGEST_WEIGHT):
            self._rescale(exponent)
            self._origin_s, exponent = at_s, 0.0
        weight = math.exp(exponent)
        scale = self._cells_per_octave
        key = (int(math.log2(prompt_tokens) * scale), int(math.log2(output_tokens) * scale))
        cell = self._cells.get(key)
        if cell is None:
            self._cells[key] = [weight, weight * prompt_tokens, weight * output_tokens]
        else:
            cell[0] += weight
            cell[1] += weight * prompt_tokens
            cell[2] += weight * output_tokens
        self._total += weight
        self._squares += weight * weight
        self.count += 1

    def _rescale(self, exponent: float) -> None:
        shrink = math.exp(-exponent)
        self._total *= shrink
        self._squares *= shrink * shrink
        for key, cell in list(self._cells.items()):
            if cell[0] * shrink < 1e-12:
                del self._cells[key]
            else:
                cell[:] = (value * shrink for value in cell)

    @property
    def samples(self) -> float:
        """Effective number of requests behind the law."""
        return self._total * self._total / self._squares if self._squares > 0.0 else 0.0

    @property
    def enough(self) -> bool:
        """Whether there are enough samples to act on the law."""
        return self.samples >= self.min_samples

    def get(self) -> EmpiricalLaw:
        """Return the law, one pair a cell; lengths rounded to whole tokens.

        Raises:
            ValueError: nothing was seen yet.
        """
        # Weights forgotten to nothing beside the newest would only cost time.
        least = 1e-9 * self._total
        cells = [(s / w, o / w, w) for w, s, o in self._cells.values() if w > least]
        pairs = tuple((max(round(s), 1), max(round(o), 1)) for s, o, _ in cells)
        return EmpiricalLaw(pairs, tuple(w / self._total for _, _, w in cells), round(self.samples))
