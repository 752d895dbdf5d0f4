"""The rows of standings, as text for a terminal; the docs print the same rows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.evaluation.tables import aligned_table
from bidkv.tournament.paired import MeanInterval
from bidkv.tournament.plan import BASELINE
from bidkv.tournament.standings import JUDGED, Standings

HEADINGS = (
    "policy",
    "mean",
    "p99",
    "TTFT p99",
    "longest wait",
    "throughput",
    "recompute tax",
    "TTFT <= 2 s",
    "most preempted",
    "cells lost",
)
HINDSIGHT_HEADINGS = ("policy", "size", "mean", "p99")
LOSS_HEADINGS = ("policy", "size", "family", "load", "figure", "ratio")
_NAMES = {"mean_e2e_s": "mean", "p99_e2e_s": "p99"}


def size_rows(standings: Standings, size: str, load: float | None = None) -> list[list[str]]:
    """Return one row per policy, the best mean latency first, at a memory size and one load or all loads."""
    ranked = sorted(
        standings.plan.policies,
        key=lambda policy: standings.ratio(policy, "mean_e2e_s", size=size, load=load).value,
    )
    return [_row(standings, policy, size, load) for policy in ranked]


def _row(standings: Standings, policy: str, size: str, load: float | None) -> list[str]:
    def ratio(metric: str) -> MeanInterval:
        return standings.ratio(policy, metric, size=size, load=load)

    losses = [loss for loss in standings.losses(policy) if loss.size == size and load in (None, loss.load)]
    lost_cells = {(loss.family, loss.load) for loss in losses}
    return [
        policy,
        str(ratio("mean_e2e_s")),
        str(ratio("p99_e2e_s")),
        str(ratio("p99_ttft_s")),
        str(ratio("longest_wait_s")),
        str(ratio("throughput_rps")),
        f"{standings.level(policy, 'recompute_tax', size=size, load=load).value:.1%}",
        f"{standings.level(policy, 'slo_attainment', size=size, load=load).value:.1%}",
        str(standings.most_preemptions(policy, size=size, load=load)),
        str(len(lost_cells)),
    ]


def loss_rows(standings: Standings, policies: Sequence[str]) -> list[list[str]]:
    """Return one row per lost (policy, size, family, load, metric) of these policies, the worst first."""
    losses = [loss for policy in policies for loss in standings.losses(policy)]
    losses.sort(key=lambda loss: -loss.ratio.value)
    return [
        [loss.policy, loss.size, loss.family, f"{loss.load:g}", _NAMES[loss.metric], str(loss.ratio)]
        for loss in losses
    ]


def hindsight_rows(standings: Standings) -> list[list[str]]:
    """Return policy, size, mean and p99 relative to the best watermark of each family and load in hindsight.

    Empty without at least two watermarks among the policies.
    """
    watermarks = [policy for policy in standings.plan.policies if policy.split(":")[0] == "watermark"]
    if len(watermarks) < 2:
        return []
    return [
        [
            policy,
            size,
            *(str(standings.against_best(policy, watermarks, m, size=size)) for m in JUDGED),
        ]
        for policy in standings.plan.policies
        if policy not in watermarks
        for size in standings.plan.sizes
    ]


def as_text(standings: Standings) -> str:
    """Return the compact table of all sizes, for a terminal or a notebook."""
    parts = []
    for size in standings.plan.sizes:
        parts.append(f"{size}: ratios to {BASELINE}, geometric means, 95 % intervals over seeds")
        parts.append("\n".join(aligned_table(HEADINGS, size_rows(standings, size))))
    parts.extend(f"{policy} failed in {runs} runs" for policy, runs in standings.broken().items())
    return "\n".join(parts)
