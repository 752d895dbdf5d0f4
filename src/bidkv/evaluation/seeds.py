"""The one rule that says which strategies of a comparison take a run's seed."""

from __future__ import annotations

from bidkv.policy import policy_options


def add_seed(spec: str, seed: int) -> str:
    """Give a strategy that draws at random the seed of its run, unless its own text states one.

    >>> add_seed("static-random", 3), add_seed("static-random:seed=9", 3), add_seed("lcf", 3)
    ('static-random:seed=3', 'static-random:seed=9', 'lcf')

    Args:
        spec: `name` or `name:key=value;key=value`.
        seed: of the run.

    Raises:
        PolicySpecError: there is no such policy.
    """
    name, _, options = spec.partition(":")
    stated = [part for part in options.split(";") if part.strip()]
    if "seed" not in policy_options(name) or any(part.split("=")[0].strip() == "seed" for part in stated):
        return spec
    return f"{name}:{';'.join([*stated, f'seed={seed}'])}"
