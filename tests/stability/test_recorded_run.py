import csv
from itertools import accumulate
from pathlib import Path

import pytest

from bidkv.evaluation.saturation import rate_while_waiting
from bidkv.profiles import load_profile
from bidkv.results.codec import decode
from bidkv.stability import EmpiricalLaw, ReplicaShape, service_rate

RECORDED = Path(__file__).parents[1] / "data" / "h100"


def rows(name):
    with (RECORDED / name).open() as file:
        return list(csv.DictReader(file))


def test_the_rate_of_a_real_overloaded_h100_is_predicted_within_5_percent():
    """599 blocks, 32 sequences; the queue is never empty from the 50th end to the last moment counted."""
    requests, steps = rows("run_compiled.requests.csv"), rows("run_compiled.steps.csv")
    ends = sorted(float(row["finish"]) for row in requests)
    times = list(accumulate(float(row["step_s"]) for row in steps))
    since = ends[50]
    until = max(at for at, row in zip(times, steps, strict=True) if int(row["waiting"]))
    measured = sum(since < at <= until for at in ends) / (until - since)

    law = EmpiricalLaw.from_pairs((int(row["prompt"]), int(row["output"])) for row in requests)
    shape = ReplicaShape(599, max_num_seqs=32)
    profile = load_profile("h100-llama3.1-8b").for_engine(shape.max_num_seqs, shape.max_num_batched_tokens)
    rate = service_rate(law, shape, profile.step_s)
    assert rate.sustainable_rps == pytest.approx(measured, rel=0.05)
    assert rate.low_rps < measured < rate.high_rps
    assert rate.plain_rps > 1.1 * measured


@pytest.mark.parametrize("law", ["law-1-1", "law-1-2", "law-2-1"])
def test_the_rate_of_a_real_h100_at_saturation_is_predicted_within_2_percent(law):
    """2,048 blocks, 256 sequences, everybody waiting from the start; none of these runs was fitted."""
    real = decode((RECORDED / "traffic" / "validation" / f"{law}.json").read_text(), law)
    lengths = EmpiricalLaw.from_pairs((record.prompt_tokens, record.output_tokens) for record in real.records)
    shape = ReplicaShape(2048, max_num_seqs=256)
    rate = service_rate(lengths, shape, load_profile("h100-llama3.1-8b-traffic").step_s)
    measured = rate_while_waiting(real)
    assert rate.sustainable_rps == pytest.approx(measured, rel=0.02)
    assert rate.low_rps < measured < rate.high_rps
    assert rate.plain_rps > 1.2 * measured
