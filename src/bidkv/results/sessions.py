"""The figures of sessions: conversations are judged by when they complete, not by single turns alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bidkv.results.percentiles import nearest_rank
from bidkv.results.records import EngineTotals, Outcome, RequestRecord


def summarize_sessions(
    records: Sequence[RequestRecord], totals: EngineTotals, window_s: float, *, warm_up_s: float = 0.0
) -> dict[str, Any] | None:
    """Return a run's figures of sessions under their public JSON names; None when no request had a session.

    Args:
        records: of all requests; those without a session are left out.
        totals: of the whole run.
        window_s: seconds that the run lasted, for the turns per second.
        warm_up_s: seconds of the run, whose clock starts at 0, that do not count: what happened in them is in
            no figure but the last three, which need the totals.

    Returns:
        `turns` that completed, `turns_per_s`, `completed` sessions; mean, p50 and p99 in seconds of a turn
        (`turn_s`), of the time to the first token of a session's first turn (`first_turn_wait_s`) and from a
        session's first arrival to the last token of its last turn (`completion_s`); `computed_per_new_token`,
        the computed tokens for each token that completed turns added (new prompt tokens and answers);
        `prefix_hit_rate` and `lost_prefix_share` as :class:`bidkv.results.EngineTotals` defines them.
    """
    of_sessions = [record for record in records if record.session_id]
    if not of_sessions:
        return None
    completed = [record for record in of_sessions if record.outcome is Outcome.COMPLETED]
    turns = [record for record in completed if (record.finish_s or 0.0) >= warm_up_s]
    started_s = {record.session_id: record.arrival_s for record in of_sessions if record.turn == 0}
    completions = [
        (record.finish_s or 0.0) - started_s[record.session_id]
        for record in turns
        if record.ends_session and record.session_id in started_s
    ]
    new_tokens = sum((record.new_tokens or 0) + record.output_tokens for record in completed)
    counted_s = window_s - warm_up_s
    return {
        "turns": len(turns),
        "turns_per_s": len(turns) / counted_s if counted_s > 0 else 0.0,
        "completed": len(completions),
        "turn_s": _spread(record.e2e_s for record in turns),
        "first_turn_wait_s": _spread(
            record.ttft_s
            for record in of_sessions
            if record.turn == 0 and (record.first_token_s is None or record.first_token_s >= warm_up_s)
        ),
        "completion_s": _spread(completions),
        "computed_per_new_token": totals.scheduled_tokens / new_tokens if new_tokens else None,
        "prefix_hit_rate": totals.prefix_hit_rate,
        "lost_prefix_share": totals.lost_prefix_share,
    }


def _spread(values: Iterable[float | None]) -> dict[str, float | None]:
    ordered = sorted(value for value in values if value is not None)
    if not ordered:
        return {"mean": None, "p50": None, "p99": None}
    return {
        "mean": sum(ordered) / len(ordered),
        "p50": nearest_rank(ordered, 50),
        "p99": nearest_rank(ordered, 99),
    }
