"""When a difference must not be claimed for a policy: it cannot have been the policy that made it."""

from __future__ import annotations

from collections.abc import Sequence

from bidkv.experiments.plan import Plan, policy_of
from bidkv.experiments.store import StoredRun
from bidkv.policy import PolicySpecError, resolve


def idle_reason(plan: Plan, label: str, runs: Sequence[StoredRun]) -> str:
    """Say why the policy cannot have made a difference in these runs; empty when it can have.

    Args:
        plan: what the runs are part of.
        label: the strategy's label.
        runs: its runs; their notes hold the controller's counters under "control".
    """
    try:
        policy = resolve(policy_of(label))
        admits = policy.chooses_next or policy.keeps_reserve
    except PolicySpecError:
        # Somebody's own policy, not installed where results are read: only counted decisions speak for it.
        admits = False
    counters = [c for run in runs if isinstance(c := run.result.notes.get("control"), dict)]
    if not counters or len(counters) < len(runs):
        return "the engine reported no counters: nothing shows that the policy was in charge"
    total = {name: sum(c.get(name, 0) for c in counters) for name in counters[0]}
    if total.get("failures", 0):
        return f"the policy failed {total['failures']} times and the engine went on alone"
    if admits and total.get("admissions", 0):
        return ""
    if not total.get("decisions", 0):
        return "the policy was never called"
    # SGLang asks for an order, which its own rule completes: what that would have been is not counted.
    asks_for_order = plan.options.get("scheduler", plan.engine) == "sglang"
    if not asks_for_order and not total.get("overrides", 0):
        return "the policy chose as the engine itself would have, every time"
    return ""
