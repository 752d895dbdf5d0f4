"""The rows of standings, as text for a terminal; the docs print the same rows as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.evaluation.tables import aligned_table
from bidkv.tournament.paired import MeanInterval
from bidkv.tournament.plan import BASELINE, RECOMMENDED, memory_size
from bidkv.tournament.standings import Standings

HEADINGS = (
    "policy",
    "mean",
    "p99",
    "TTFT mean",
    "TTFT p99",
    "longest wait",
    "throughput",
    "recompute tax",
    "TTFT <= 2 s",
    "most preempted",
    "cells lost",
)
HINDSIGHT_HEADINGS = ("policy", "size", "mean", "p99", "mean within 1 %", "p99 within 1 %")
LOSS_HEADINGS = ("policy", "size", "family", "load", "figure", "ratio")
_NAMES = {
    "mean_e2e_s": "mean",
    "p99_e2e_s": "p99",
    "mean_ttft_s": "TTFT mean",
    "p99_ttft_s": "TTFT p99",
    "longest_wait_s": "longest wait",
}
_OF_HINDSIGHT = ("mean_e2e_s", "p99_e2e_s")


def describe_size(standings: Standings, name: str) -> str:
    """Return a memory size with what its engine is like: blocks, sequences, requests of a run."""
    plan = standings.plan
    engine = memory_size(name).make_engine(plan.engine)
    return (
        f"{name}: {engine.num_gpu_blocks:,} blocks, {engine.max_num_seqs} sequences, "
        f"{plan.requests_at(name):,} requests a run"
    )


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
        str(ratio("mean_ttft_s")),
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
    """Return mean and p99 of each policy and size relative to the best watermark of each family and load.

    The best one is known in hindsight. The last two columns count the cells at most 1 % above it.

    Empty without at least two watermarks among the policies.
    """
    watermarks = [policy for policy in standings.plan.policies if policy.split(":")[0] == "watermark"]
    if len(watermarks) < 2:
        return []
    return [
        [
            policy,
            size,
            *(str(standings.against_best(policy, watermarks, m, size=size)) for m in _OF_HINDSIGHT),
            *(_near(standings, policy, watermarks, m, size) for m in _OF_HINDSIGHT),
        ]
        for policy in standings.plan.policies
        if policy not in watermarks
        for size in standings.plan.sizes
    ]


def _near(standings: Standings, policy: str, rivals: Sequence[str], metric: str, size: str) -> str:
    near, cells = standings.near_best(policy, rivals, metric, size=size)
    return f"{near} of {cells}"


def as_text(standings: Standings) -> str:
    """Return the compact table of all sizes, for a terminal or a notebook."""
    parts = []
    for size in standings.plan.sizes:
        about = describe_size(standings, size)
        parts.append(f"{about}: ratios to {BASELINE}, geometric means, 95 % intervals over seeds")
        parts.append("\n".join(aligned_table(HEADINGS, size_rows(standings, size))))
    if hindsight := hindsight_rows(standings):
        parts.append("Ratios to the best watermark of each family and load, known in hindsight")
        parts.append("\n".join(aligned_table(HINDSIGHT_HEADINGS, hindsight)))
    recommended = [policy for policy in RECOMMENDED if policy in standings.plan.policies]
    if losses := loss_rows(standings, recommended):
        parts.append(f"Lost to {BASELINE}")
        parts.append("\n".join(aligned_table(LOSS_HEADINGS, losses)))
    parts.extend(f"{policy} failed in {runs} runs" for policy, runs in standings.broken().items())
    return "\n".join(parts)
