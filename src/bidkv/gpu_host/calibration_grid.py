"""The grid of a calibration run: the batches that an engine is stepped through.

Two kinds of cells cover what a step-time profile needs:

* a *staircase*: many requests decode and finish one after the other, so one prefill gives every decode batch
  size from many down to 1;
* an *injection* cell: a steady decode batch into which prompts are put one by one, which gives mixed steps of
  known composition, from a few prefill tokens to a full token budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

STEPS_PER_STAIR = 2
"""Steps between two requests of a staircase finishing."""


@dataclass(frozen=True, slots=True)
class Injection:
    """`prompts` prompts of `prompt_tokens` tokens each that enter together and end with their first token."""

    prompts: int
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class GridCell:
    """One cell of the grid.

    Attributes:
        number: identifies the cell in the log, and for resuming.
        requests: requests that decode; 0 when prompts are injected into an empty engine.
        prompt_tokens: their mean prompt length.
        chunk: token budget of a step.
        injections: prompts put in while they decode; empty in a staircase.
    """

    number: int
    requests: int
    prompt_tokens: int
    chunk: int
    injections: tuple[Injection, ...] = ()

    @property
    def output_tokens(self) -> int:
        """Most tokens one of the decoding requests generates."""
        # Decoding requests take their token from the budget before a prompt gets its chunk.
        free_budget = max(self.chunk - self.requests, 1)
        prefill_steps = -(-self.requests * self.longest_prompt // free_budget) + 1
        if not self.injections:
            return prefill_steps + STEPS_PER_STAIR * self.requests
        return prefill_steps + sum(
            2 + -(-i.prompts * i.prompt_tokens // free_budget) for i in self.injections
        )

    @property
    def longest_prompt(self) -> int:
        """Longest prompt of a decoding request; lengths vary by an eighth, so they do not align in blocks."""
        return self.prompt_tokens + self.prompt_tokens // 8

    @property
    def peak_tokens(self) -> int:
        """Upper bound of the tokens resident at once."""
        injected = max((i.prompts * (i.prompt_tokens + 1) for i in self.injections), default=0)
        return self.requests * (self.longest_prompt + self.output_tokens) + injected

    @property
    def longest_request(self) -> int:
        """Upper bound of one request's tokens."""
        injected = max((i.prompt_tokens + 1 for i in self.injections), default=0)
        return max(self.longest_prompt + self.output_tokens if self.requests else 0, injected)


_STAIRS = ((256, 64), (256, 256), (128, 1024), (64, 2048), (32, 4096), (8, 16_384))
_STEADY = (
    *((0, 0), (1, 128), (4, 128), (8, 128), (8, 4096), (16, 512), (32, 128), (32, 1024), (32, 4096)),
    *((64, 256), (100, 128), (100, 1024), (200, 128), (200, 512)),
)
_PREFILLS = (
    8,
    24,
    40,
    56,
    80,
    110,
    160,
    220,
    300,
    380,
    460,
    540,
    640,
    760,
    900,
    1100,
    1300,
    1550,
    1800,
    2000,
)
_SPLIT = ((4, 64), (4, 160), (4, 300), (4, 450), (16, 16), (16, 100))
_LONG = (6000, 16_000, 28_000)


def full_grid(chunks: tuple[int, ...], passes: int, seed: int) -> list[GridCell]:
    """Return the grid for a data-center GPU, shuffled so that drift affects all regimes alike.

    Args:
        chunks: token budgets of a step, none above the engine's own.
        passes: how often everything is recorded.
        seed: of the order.
    """
    cells: list[GridCell] = []
    for _ in range(passes):
        for chunk in chunks:
            cells += _cells(len(cells), chunk, _STAIRS, _STEADY, _PREFILLS, _SPLIT, _LONG, seed + len(cells))
    Random(seed).shuffle(cells)
    return cells


def small_grid(chunks: tuple[int, ...], passes: int, seed: int) -> list[GridCell]:
    """Return a few seconds of the same, to try the recorder on a small engine."""
    cells: list[GridCell] = []
    for _ in range(passes):
        for chunk in chunks:
            cells += _cells(
                len(cells), chunk, ((6, 40),), ((0, 0), (3, 40)), (5, 30, 90), ((2, 20),), (300,), seed
            )
    Random(seed).shuffle(cells)
    return cells


def _cells(
    first: int,
    chunk: int,
    stairs: tuple[tuple[int, int], ...],
    steady: tuple[tuple[int, int], ...],
    prefills: tuple[int, ...],
    split: tuple[tuple[int, int], ...],
    long: tuple[int, ...],
    seed: int,
) -> list[GridCell]:
    cells = [GridCell(first + i, requests, prompt, chunk) for i, (requests, prompt) in enumerate(stairs)]
    order = Random(seed)
    for requests, prompt in steady:
        injections = [Injection(1, tokens) for tokens in prefills] + [Injection(*each) for each in split]
        if requests <= 8:  # chunks deep in a prompt: what tells attention from everything else
            injections += [Injection(1, tokens) for tokens in long]
        order.shuffle(injections)
        cells.append(GridCell(first + len(cells), requests, prompt, chunk, tuple(injections)))
    return cells
