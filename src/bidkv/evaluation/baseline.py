"""The one rule that says which run of a comparison the others are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.baselines import ENGINE_ORDER

ENGINE_ORDERS = (ENGINE_ORDER, "sglang-default", "sglang_default")
"""The policies that leave an engine's own order alone, vLLM's before SGLang's (in both its spellings)."""


def choose_baseline(labels: Sequence[str]) -> str:
    """Return the baseline among strategies: an engine's own order where it takes part, else the first.

    Args:
        labels: at least one name, in the order in which the strategies were asked for.

    >>> choose_baseline(["lcf", "sglang_default"]), choose_baseline(["fair", "lcf"])
    ('sglang_default', 'fair')
    """
    return next((name for name in ENGINE_ORDERS if name in labels), labels[0])
